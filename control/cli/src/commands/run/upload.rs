//! `--upload-path`: a folder into the workspace, as one commit.

use std::path::Path;

use anyhow::Result;
use ds_domain::{api::Uploaded, task::TaskSpec};
use futures_util::StreamExt;

use crate::{archive, context::Context, output::text, progress};

/// Characters of the command that the commit's message quotes.
const QUOTED: usize = 200;

pub(super) async fn upload(context: &Context, project: &str, folder: &Path, spec: &TaskSpec) -> Result<()> {
    let inventory = archive::survey(folder)?;
    let what = format!("{}, {}", text::count(inventory.files, "file"), text::size(inventory.bytes));
    if inventory.outward > 0 {
        let links = text::count(inventory.outward, "link");
        context.out.warn(format_args!("{links} left out: they lead out of {}", folder.display()));
    }
    if inventory.others > 0 {
        let others = text::count(inventory.others, "name");
        context.out.warn(format_args!("{others} left out: sockets, pipes and devices are not uploaded"));
    }
    let bar = progress::bytes(inventory.tar_bytes, "uploading");
    let counted = bar.clone();
    let pieces = archive::stream(folder.to_owned()).inspect(move |piece| {
        counted.inc(piece.as_ref().map_or(0, bytes::Bytes::len) as u64);
    });
    let command: String = text::command(&spec.command).chars().take(QUOTED).collect();
    let call = context
        .client
        .post(&["projects", project, "upload"])
        .query("path", "")
        .query("message", format_args!("upload for: {command}"))
        .tar(reqwest::Body::wrap_stream(pieces));
    let uploaded: Uploaded = call.json().await?;
    bar.finish_and_clear();
    context.out.note(format_args!("uploaded {what}: commit {}", text::short(uploaded.commit.id)));
    Ok(())
}

//! What is on this machine, into a workspace or a dataset, as one commit.

use std::path::Path;

use anyhow::Result;
use ds_domain::api::{Commit, Uploaded};
use futures_util::StreamExt;

use crate::{archive, context::Context, output::text, progress};

/// Sends the content of a folder, or one file, to be unpacked into the folder `into` of what lies at the API's `place`, such as
/// `projects/digits`.
pub(super) async fn upload(
    context: &Context,
    place: [&str; 2],
    from: &Path,
    into: &str,
    message: &str,
) -> Result<Commit> {
    let inventory = archive::survey(from)?;
    let what = format!("{}, {}", text::count(inventory.files, "file"), text::size(inventory.bytes));
    if inventory.outward > 0 {
        let links = text::count(inventory.outward, "link");
        context.out.warn(format_args!("{links} left out: they lead out of {}", from.display()));
    }
    if inventory.others > 0 {
        let others = text::count(inventory.others, "name");
        context.out.warn(format_args!("{others} left out: sockets, pipes and devices are not uploaded"));
    }
    let bar = progress::bytes(inventory.tar_bytes, "uploading");
    let counted = bar.clone();
    let pieces = archive::stream(from.to_owned()).inspect(move |piece| {
        counted.inc(piece.as_ref().map_or(0, bytes::Bytes::len) as u64);
    });
    let [kind, name] = place;
    let call = context
        .client
        .post(&[kind, name, "upload"])
        .query("path", into)
        .query("message", message)
        .tar(reqwest::Body::wrap_stream(pieces));
    let uploaded: Uploaded = call.json().await?;
    bar.finish_and_clear();
    context.out.note(format_args!("uploaded {what}: commit {}", text::short(uploaded.commit.id)));
    Ok(uploaded.commit)
}

//! `ds files`.

use std::path::Path;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use ds_domain::{
    CommitId,
    api::{Commit, Dataset, FileEntry, FileKind, Page, Project},
};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use crate::{
    context::{Context, found},
    output::{self, Table, text},
};

mod download;

#[derive(Debug, Subcommand)]
pub(crate) enum FilesCommand {
    /// List the files of a commit.
    #[command(after_help = "Examples:
  ds files ls digits                 the newest files of a project
  ds files ls 5d6e7f80 models -r     a folder as it was at a commit, with all below it")]
    Ls {
        #[command(flatten)]
        place: Place,
        /// With everything in the folders below.
        #[arg(short = 'r', long)]
        recursive: bool,
    },
    /// Print a file to stdout, byte by byte.
    #[command(after_help = "Example:\n  ds files cat 5d6e7f80 train.py")]
    Cat {
        /// A commit's id, or the first characters of it; or a project or dataset, for its head.
        #[arg(value_name = "COMMIT|NAME")]
        commit: String,
        /// The file, relative to the workspace or dataset.
        path: String,
    },
    /// Download a file, or a folder with all below it.
    Get(GetArgs),
}

/// A path at a commit.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// A commit's id, or the first characters of it; or a project or dataset, for its head.
    #[arg(value_name = "COMMIT|NAME")]
    commit: String,
    /// Relative to the workspace or dataset. Without it: all of it.
    #[arg(default_value = "", hide_default_value = true)]
    path: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ds files get digits model.pkl
  ds files get 5d6e7f80 models -o /tmp/then

Files that are there already are replaced, each in one step. Links are not downloaded.")]
pub(crate) struct GetArgs {
    #[command(flatten)]
    place: Place,
    /// The folder to put them into.
    #[arg(short = 'o', long, value_name = "DIR", default_value = ".")]
    output: std::path::PathBuf,
}

pub(crate) async fn run(context: &Context, command: FilesCommand) -> Result<()> {
    match command {
        FilesCommand::Ls { place, recursive } => list(context, &place, recursive).await,
        FilesCommand::Cat { commit, path } => cat(context, &commit, &path).await,
        FilesCommand::Get(args) => {
            let commit = resolve(context, &args.place.commit).await?;
            get(context, &commit, &args.place.path, &args.output).await
        }
    }
}

/// Downloads a file or folder of a commit into the folder `into`, under its own last name; with an empty path all of it.
pub(super) async fn get(context: &Context, commit: &str, path: &str, into: &Path) -> Result<()> {
    download::get(context, commit, normal(path), into).await
}

/// The id of the commit that `wanted` names: the head of a project or dataset by its name, a commit by its id or the start of
/// it, a head by its owner's id.
pub(crate) async fn resolve(context: &Context, wanted: &str) -> Result<String> {
    if wanted.parse::<CommitId>().is_ok()
        && let Some(commit) = found(context.client.get(&["commits", wanted]).json::<Commit>().await)?
    {
        return Ok(commit.id.to_string());
    }
    let head = head_of(context, wanted).await?;
    if let Some((_, head)) = head.as_ref().filter(|(name, _)| name == wanted) {
        return Ok(head.to_string());
    }
    if let Some(commit) = found(context.client.get(&["commits", wanted]).json::<Commit>().await)? {
        return Ok(commit.id.to_string());
    }
    match head {
        Some((_, head)) => Ok(head.to_string()),
        None => bail!(
            "{wanted:?} is no project, dataset or commit that you can see: try `ds project ls`, `ds dataset ls` or `ds commit ls`"
        ),
    }
}

/// The name and head of a project or dataset, by its name or id.
async fn head_of(context: &Context, wanted: &str) -> Result<Option<(String, CommitId)>> {
    let project = found(context.client.get(&["projects", wanted]).json::<Project>().await)?;
    if let Some(project) = project {
        return Ok(Some((project.name, project.head)));
    }
    let dataset = found(context.client.get(&["datasets", wanted]).json::<Dataset>().await)?;
    Ok(dataset.map(|dataset| (dataset.name, dataset.head)))
}

/// The names in a folder of a commit.
async fn entries(context: &Context, commit: &str, path: &str, recursive: bool) -> Result<Page<FileEntry>> {
    let call =
        context.client.get(&["commits", commit, "files"]).query("path", path).query("recursive", recursive);
    Ok(call.pages(None).await?)
}

async fn list(context: &Context, place: &Place, recursive: bool) -> Result<()> {
    let commit = resolve(context, &place.commit).await?;
    let files = entries(context, &commit, normal(&place.path), recursive).await?;
    if context.out.json {
        return context.out.print_json(&files);
    }
    let mut table = Table::new([">SIZE", "=CHANGED", "PATH"]);
    for file in files.items {
        let (size, mark) = match file.kind {
            FileKind::File => (text::size(file.size_bytes), ""),
            FileKind::Folder => (String::new(), "/"),
            FileKind::Link => (String::new(), "@"),
            FileKind::Other => (String::new(), "?"),
        };
        table.row([size, text::ago(file.modified_ms), format!("{}{mark}", file.path)]);
    }
    if table.is_empty() {
        context.out.note("empty");
        return Ok(());
    }
    context.out.print_table(&table)
}

async fn cat(context: &Context, commit: &str, path: &str) -> Result<()> {
    let commit = resolve(context, commit).await?;
    let call = context.client.get(&["commits", &commit, "content"]).query("path", normal(path));
    let mut bytes = call.bytes().await?;
    let mut stdout = output::raw_stdout()?;
    while let Some(part) = bytes.next().await {
        stdout.write_all(&part?).await.map_err(output::closed)?;
    }
    stdout.flush().await.map_err(output::closed)
}

/// `./models/` as the API writes it: `models`.
fn normal(path: &str) -> &str {
    let path = path.trim_matches('/');
    let path = path.strip_prefix("./").unwrap_or(path);
    if path == "." { "" } else { path.trim_start_matches('/') }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_the_api_does() {
        assert_eq!(["", ".", "/", "./a", "a/b/", "/a"].map(normal), ["", "", "", "a", "a/b", "a"]);
    }
}

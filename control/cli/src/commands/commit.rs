//! `ds commit`.

use anyhow::Result;
use clap::{Args, Subcommand};
use ds_domain::api::{Commit, FileChange, Page};
use serde::Serialize;

use super::files;
use crate::{
    args::ProjectChoice,
    context::Context,
    output::{Table, text},
};

/// Changed files that `show` prints; `--json` has them all.
const SHOWN_CHANGES: usize = 100;

#[derive(Debug, Subcommand)]
pub(crate) enum CommitCommand {
    /// List a project's commits, newest first.
    Ls(ListArgs),
    /// Show a commit and the files that it changed.
    #[command(after_help = "Examples:
  ds commit show 5d6e7f80
  ds commit show digits          the project's head")]
    Show {
        /// A commit's id, or the first characters of it; or a project or dataset, for its head.
        #[arg(value_name = "COMMIT|NAME")]
        commit: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ds commit ls digits --limit 5")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    project: ProjectChoice,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

#[derive(Serialize)]
struct CommitWithChanges {
    #[serde(flatten)]
    commit: Commit,
    changes: Vec<FileChange>,
}

pub(crate) async fn run(context: &Context, command: CommitCommand) -> Result<()> {
    match command {
        CommitCommand::Ls(args) => list(context, &args).await,
        CommitCommand::Show { commit } => show(context, &commit).await,
    }
}

async fn list(context: &Context, args: &ListArgs) -> Result<()> {
    let project = context.project(args.project.name()).await?;
    let commits: Page<Commit> =
        context.client.get(&["projects", &project, "commits"]).pages(Some(args.limit)).await?;
    print_list(context, commits)
}

/// Commits, newest first.
pub(super) fn print_list(context: &Context, commits: Page<Commit>) -> Result<()> {
    if context.out.json {
        return context.out.print_json(&commits);
    }
    let mut table = Table::new(["=COMMIT", "=WHEN", "AUTHOR", ">FILES", ">RUNS", "MESSAGE"]);
    for commit in commits.items {
        let branch = commit.branch.map(|branch| format!(" (branch {branch})")).unwrap_or_default();
        table.row([
            text::short(commit.id),
            text::ago(commit.created_ms),
            commit.author,
            commit.changed_files.to_string(),
            commit.runs.len().to_string(),
            format!("{}{branch}", text::excerpt(&commit.message)),
        ]);
    }
    context.out.print_table(&table)
}

async fn show(context: &Context, wanted: &str) -> Result<()> {
    let id = files::resolve(context, wanted).await?;
    let commit: Commit = context.client.get(&["commits", &id]).json().await?;
    let call = context.client.get(&["commits", &id, "changes"]);
    if context.out.json {
        let changes = call.pages(None).await?.items;
        return context.out.print_json(&CommitWithChanges { commit, changes });
    }
    let changes: Vec<FileChange> = call.pages(Some(SHOWN_CHANGES)).await?.items;
    print_fields(context, &commit)?;
    if changes.is_empty() {
        return Ok(());
    }
    context.out.print_heading(&text::count(commit.changed_files, "changed file"))?;
    for change in &changes {
        let sign = text::change_sign(change.change);
        let size = if sign == '-' { String::new() } else { format!("  {}", text::size(change.size_bytes)) };
        context.out.print(format_args!("{sign} {}{size}", text::plain(&change.path)))?;
    }
    if commit.changed_files > changes.len() as u64 {
        context.out.note(format_args!("the first {} are shown; --json has all", changes.len()));
    }
    Ok(())
}

fn print_fields(context: &Context, commit: &Commit) -> Result<()> {
    let optional = |id: Option<String>| id.unwrap_or_default();
    context.out.print_fields(&[
        ("commit", commit.id.to_string()),
        ("message", commit.message.clone()),
        ("author", commit.author.clone()),
        ("created", text::moment(commit.created_ms)),
        ("parent", optional(commit.parent.map(|id| id.to_string()))),
        ("branch", optional(commit.branch.clone())),
        ("task", optional(commit.task.map(|id| id.to_string()))),
        ("runs", commit.runs.iter().map(text::short).collect::<Vec<_>>().join(" ")),
        ("snapshot", format!("{} (GUID {})", commit.snapshot, commit.guid)),
    ])
}

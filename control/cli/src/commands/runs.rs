//! `ds runs`.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::{Args, Subcommand};
use ds_domain::{
    CommitId,
    api::{Comparison, Page, Provenance, Run, RunFile, Task},
    record::FileReference,
};

use crate::{
    args::ProjectChoice,
    context::Context,
    output::{Table, text},
};

mod compare;
mod provenance;

#[derive(Debug, Subcommand)]
pub(crate) enum RunsCommand {
    /// List a project's runs, newest first.
    Ls(ListArgs),
    /// Show all that was recorded about a run.
    #[command(after_help = "Example:\n  ds runs show 91ab23cd")]
    Show {
        /// A run's id, or the first characters of it.
        run: String,
    },
    /// Put runs side by side: what differs comes first.
    #[command(after_help = "Example:\n  ds runs compare 91ab23cd 5d6e7f80")]
    Compare {
        /// Runs' ids, or the first characters of them; two or more.
        #[arg(value_name = "RUN", required = true, num_args = 2..)]
        runs: Vec<String>,
    },
    /// Show where a run's inputs come from, and where those come from, as a tree.
    #[command(after_help = "Example:\n  ds runs provenance 91ab23cd")]
    Provenance {
        /// A run's id, or the first characters of it.
        run: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ds runs ls digits
  ds runs ls digits --sort metric.accuracy --limit 5
  ds runs ls digits --filter parameter.model=svm --filter 'metric.accuracy>0.9'")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    project: ProjectChoice,
    /// Only runs that fit: `metric.NAME`, `parameter.NAME` or `label.NAME`, then one of = != < <= > >= or ~ (contains),
    /// then a value. May be repeated: all have to fit.
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Order by `created`, `metric.NAME`, `parameter.NAME` or `label.NAME`.
    #[arg(long, value_name = "KEY")]
    sort: Option<String>,
    /// Smallest first; without it the largest, or the newest.
    #[arg(long)]
    ascending: bool,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

pub(crate) async fn run(context: &Context, command: RunsCommand) -> Result<()> {
    match command {
        RunsCommand::Ls(args) => list(context, &args).await,
        RunsCommand::Show { run } => show(context, &run).await,
        RunsCommand::Compare { runs } => {
            let call = context.client.get(&["runs", "compare"]).query("ids", runs.join(","));
            let comparison: Comparison = call.json().await?;
            if context.out.json {
                return context.out.print_json(&comparison);
            }
            compare::print(context, &comparison)
        }
        RunsCommand::Provenance { run } => {
            let provenance: Provenance = context.client.get(&["runs", &run, "provenance"]).json().await?;
            if context.out.json {
                return context.out.print_json(&provenance);
            }
            context.out.print(provenance::tree(&provenance))
        }
    }
}

async fn list(context: &Context, args: &ListArgs) -> Result<()> {
    let project = context.project(args.project.name()).await?;
    let mut call = context
        .client
        .get(&["projects", &project, "runs"])
        .query_some("sort", args.sort.as_deref())
        .query("order", if args.ascending { "asc" } else { "desc" });
    for filter in &args.filters {
        call = call.query("filter", filter);
    }
    let runs: Page<Run> = call.pages(Some(args.limit)).await?;
    if context.out.json {
        return context.out.print_json(&runs);
    }
    if runs.items.is_empty() {
        context.out.note("no runs");
        return Ok(());
    }
    context.out.print_table(&table(&runs.items))
}

/// Runs as a table: what was set and what came out.
pub(crate) fn table(runs: &[Run]) -> Table {
    let mut table = Table::new(["=RUN", "=WHEN", "=OK", "WHAT", "PARAMETERS", "METRICS"]);
    for run in runs {
        table.row([
            text::short(run.id),
            text::ago(run.created_ms),
            if run.success { "yes" } else { "no" }.into(),
            text::excerpt(&title(run)),
            text::pairs(&run.parameters),
            text::pairs(&run.metrics),
        ]);
    }
    table
}

fn title(run: &Run) -> String {
    let file = run.workload_file.as_deref().unwrap_or_default();
    if run.description.is_empty() { file.to_owned() } else { run.description.clone() }
}

async fn show(context: &Context, id: &str) -> Result<()> {
    let run: Run = context.client.get(&["runs", id]).json().await?;
    if context.out.json {
        return context.out.print_json(&run);
    }
    let command = match run.task {
        Some(id) => {
            let task: Task = context.client.get(&["tasks", &id.to_string()]).json().await?;
            text::command(&task.spec.command)
        }
        None => String::new(),
    };
    print_fields(context, &run, command)?;
    for (heading, map) in
        [("parameters", &run.parameters), ("metrics", &run.metrics), ("labels", &run.labels)]
    {
        print_map(context, heading, map)?;
    }
    // A derived run has no outputs but those that changed.
    let gone = if run.authority == "derived" { "removed" } else { "in no commit" };
    for (heading, files, absent) in [("inputs", &run.inputs, "in no commit"), ("outputs", &run.outputs, gone)]
    {
        print_files(context, heading, files, absent)?;
    }
    if !run.conflicts.is_empty() {
        context.out.print_heading("conflicts")?;
    }
    for conflict in &run.conflicts {
        context.out.print(format_args!("! {}", text::plain(conflict)))?;
    }
    Ok(())
}

fn print_fields(context: &Context, run: &Run, command: String) -> Result<()> {
    let optional = |value: &Option<String>| value.clone().unwrap_or_default();
    context.out.print_fields(&[
        ("run", run.id.to_string()),
        ("description", run.description.clone()),
        ("success", if run.success { "yes" } else { "no" }.into()),
        ("error", optional(&run.error)),
        ("file", optional(&run.workload_file)),
        ("author", run.author.clone()),
        ("recorded", text::moment(run.created_ms)),
        ("recorded by", run.authority.clone()),
        ("start", optional(&run.start)),
        ("end", optional(&run.end)),
        ("task", run.task.map(|id| id.to_string()).unwrap_or_default()),
        ("command", command),
        ("commit", run.commit.to_string()),
        ("branch", optional(&run.branch)),
    ])
}

fn print_map(context: &Context, heading: &str, map: &BTreeMap<String, String>) -> Result<()> {
    if map.is_empty() {
        return Ok(());
    }
    context.out.print_heading(heading)?;
    let fields: Vec<_> = map.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    context.out.print_fields(&fields)
}

/// `absent` is what it means that no commit has a file.
fn print_files(context: &Context, heading: &str, files: &[RunFile], absent: &str) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    context.out.print_heading(heading)?;
    for file in files {
        context.out.print(text::plain(&file_line(file, absent)))?;
    }
    Ok(())
}

fn file_line(file: &RunFile, absent: &str) -> String {
    let by = file.written_by.map(|id| format!(", written by run {}", text::short(id))).unwrap_or_default();
    let name = match (FileReference::parse(&file.path), file.commit) {
        (Ok(reference), Some(commit)) => foreign_name(&reference.project, &reference.path, commit),
        (Ok(_), None) => format!("{} (not found)", file.path),
        (Err(_), Some(commit)) => format!("{} @ {}", file.path, text::short(commit)),
        (Err(_), None) => format!("{} ({absent})", file.path),
    };
    format!("{name}{by}")
}

/// A file of another project: `project:path@commit`.
fn foreign_name(project: &str, path: &str, commit: CommitId) -> String {
    format!("{project}:{path}@{}", text::short(commit))
}

#[cfg(test)]
mod tests {
    use ds_domain::RunId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_file_is_named_with_its_version_its_project_and_its_writer() {
        let (commit, run) = (CommitId(Uuid::from_u128(0x12 << 96)), RunId(Uuid::from_u128(0x34 << 96)));
        for (path, commit, written_by, expected) in [
            ("a.csv", Some(commit), None, "a.csv @ 00000012"),
            ("a.csv", Some(commit), Some(run), "a.csv @ 00000012, written by run 00000034"),
            ("a.csv", None, None, "a.csv (removed)"),
            ("ds://q/a%40b.csv", Some(commit), Some(run), "q:a@b.csv@00000012, written by run 00000034"),
            ("ds://q/a.csv@1a2b", None, None, "ds://q/a.csv@1a2b (not found)"),
        ] {
            let file = RunFile { path: path.into(), commit, written_by };
            assert_eq!(file_line(&file, "removed"), expected);
        }
    }
}

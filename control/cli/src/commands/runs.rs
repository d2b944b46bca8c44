//! `ds runs`.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::{Args, Subcommand};
use ds_domain::api::{Comparison, Page, Provenance, Run, RunFile};

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
    print_fields(context, &run)?;
    for (heading, map) in
        [("parameters", &run.parameters), ("metrics", &run.metrics), ("labels", &run.labels)]
    {
        print_map(context, heading, map)?;
    }
    for (heading, files) in [("inputs", &run.inputs), ("outputs", &run.outputs)] {
        print_files(context, heading, files)?;
    }
    if !run.conflicts.is_empty() {
        context.out.print_heading("conflicts")?;
    }
    for conflict in &run.conflicts {
        context.out.print(format_args!("! {}", text::plain(conflict)))?;
    }
    Ok(())
}

fn print_fields(context: &Context, run: &Run) -> Result<()> {
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

fn print_files(context: &Context, heading: &str, files: &[RunFile]) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    context.out.print_heading(heading)?;
    for file in files {
        let at = file.commit.map_or_else(|| " (in no commit)".into(), |id| format!(" @ {}", text::short(id)));
        let by =
            file.written_by.map(|id| format!(", written by run {}", text::short(id))).unwrap_or_default();
        context.out.print(format_args!("{}{at}{by}", text::plain(&file.path)))?;
    }
    Ok(())
}

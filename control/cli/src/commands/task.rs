//! `ds task`.

use anyhow::Result;
use clap::{Args, Subcommand};
use ds_domain::{
    api::{Page, Task},
    task::{Gpus, State, TaskSpec},
};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use crate::{
    args::ProjectChoice,
    context::Context,
    log_stream::LogStream,
    output::{self, Table, text},
};

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// List a project's tasks, newest first.
    Ls(ListArgs),
    /// Show a task: where it is, why it waits, how it ended.
    #[command(after_help = "Example:\n  ds task show 3f2c8a4e")]
    Show {
        /// A task's id, or the first characters of it.
        task: String,
    },
    /// Print what a task has written.
    #[command(after_help = "Examples:
  ds task logs 3f2c8a4e
  ds task logs -f 3f2c8a4e       until the task ends")]
    Logs {
        /// A task's id, or the first characters of it.
        task: String,
        /// Go on printing until the task ends.
        #[arg(short = 'f', long)]
        follow: bool,
    },
    /// End a task. What it has written by then is kept.
    #[command(after_help = "Example:\n  ds task cancel 3f2c8a4e")]
    Cancel {
        /// A task's id, or the first characters of it.
        task: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ds task ls digits --limit 5")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    project: ProjectChoice,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

pub(crate) async fn run(context: &Context, command: TaskCommand) -> Result<()> {
    match command {
        TaskCommand::Ls(args) => list(context, &args).await,
        TaskCommand::Show { task } => show(context, &task).await,
        TaskCommand::Logs { task, follow: false } => logs(context, &task).await,
        TaskCommand::Logs { task, follow: true } => {
            let task: Task = context.client.get(&["tasks", &task]).json().await?;
            LogStream::new(context, task.id).copy_to(&mut output::raw_stdout()?).await?;
            Ok(())
        }
        TaskCommand::Cancel { task } => cancel(context, &task).await,
    }
}

async fn list(context: &Context, args: &ListArgs) -> Result<()> {
    let project = context.project(args.project.name()).await?;
    let tasks: Page<Task> =
        context.client.get(&["projects", &project, "tasks"]).pages(Some(args.limit)).await?;
    if context.out.json {
        return context.out.print_json(&tasks);
    }
    let mut table = Table::new(["=TASK", "=WHEN", "STATE", "RUNNER", "AUTHOR", "COMMAND"]);
    for task in tasks.items {
        table.row([
            text::short(task.id),
            text::ago(task.created_ms),
            status(&task),
            task.runner.unwrap_or_default(),
            task.author,
            text::excerpt(&text::command(&task.spec.command)),
        ]);
    }
    context.out.print_table(&table)
}

async fn show(context: &Context, id: &str) -> Result<()> {
    let task: Task = context.client.get(&["tasks", id]).json().await?;
    if context.out.json {
        return context.out.print_json(&task);
    }
    let offline = if task.runner_online == Some(false) { " (not connected)" } else { "" };
    let optional_moment = |at: Option<i64>| at.map(text::moment).unwrap_or_default();
    context.out.print_fields(&[
        ("task", task.id.to_string()),
        ("project", task.project_name.clone()),
        ("state", status(&task)),
        ("detail", task.detail.clone()),
        ("progress", task.progress.map(text::progress).unwrap_or_default()),
        ("error", task.error.clone()),
        ("exit code", task.exit_code.map(|code| code.to_string()).unwrap_or_default()),
        ("runner", task.runner.as_ref().map(|name| format!("{name}{offline}")).unwrap_or_default()),
        ("author", task.author.clone()),
        ("command", text::command(&task.spec.command)),
        ("image", task.spec.image.clone()),
        ("limits", limits(&task.spec)),
        ("labels", text::pairs(&task.spec.labels)),
        ("created", text::moment(task.created_ms)),
        ("started", optional_moment(task.started_ms)),
        ("ended", optional_moment(task.ended_ms)),
        ("commit", task.commit.map(|id| id.to_string()).unwrap_or_default()),
        ("branch", task.branch.clone().unwrap_or_default()),
        ("runs", task.runs.iter().map(text::short).collect::<Vec<_>>().join(" ")),
        ("log", text::size(task.log_bytes)),
    ])?;
    for warning in &task.warnings {
        context.out.print(format_args!("warning: {}", text::plain(warning)))?;
    }
    Ok(())
}

async fn logs(context: &Context, id: &str) -> Result<()> {
    let mut log = context.client.get(&["tasks", id, "log"]).bytes().await?;
    let mut stdout = output::raw_stdout()?;
    while let Some(part) = log.next().await {
        stdout.write_all(&part?).await.map_err(output::closed)?;
    }
    stdout.flush().await.map_err(output::closed)
}

async fn cancel(context: &Context, id: &str) -> Result<()> {
    let task: Task = context.client.get(&["tasks", id]).json().await?;
    if task.state == State::Ended {
        context.out.note(format_args!("task {} has ended already: {}", text::short(task.id), status(&task)));
        return Ok(());
    }
    context.client.post(&["tasks", &task.id.to_string(), "cancel"]).done().await?;
    context.out.note(format_args!("task {} is being cancelled", text::short(task.id)));
    Ok(())
}

/// The state in one or two words.
fn status(task: &Task) -> String {
    match (task.state, task.outcome, task.phase) {
        (State::Ended, Some(outcome), _) => outcome.as_str().replace('_', " "),
        (State::Ended, None, _) => "ended".into(),
        _ if task.cancelling => "cancelling".into(),
        (State::Running, _, Some(phase)) => phase.as_str().into(),
        (state, ..) => state.as_str().into(),
    }
}

fn limits(spec: &TaskSpec) -> String {
    let cpus = spec.cpus.map(|cpus| format!("{cpus} CPUs"));
    let memory = spec.memory_bytes.map(|bytes| format!("{} memory", text::size(bytes)));
    let gpus = spec.gpus.map(|gpus| match gpus {
        Gpus::All => "all GPUs".to_owned(),
        Gpus::Count(count) => text::count(count.into(), "GPU"),
    });
    let timeout = spec.timeout_seconds.map(|seconds| {
        let ms = i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
        format!("ends after {}", text::span(ms))
    });
    [cpus, memory, gpus, timeout].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

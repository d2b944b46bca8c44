//! `ds run`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use ds_domain::{
    TaskId,
    api::{CreateTask, Task},
    task::{Gpus, Repository, TaskSpec},
};
use uuid::Uuid;

use super::upload::upload;
use crate::{
    args::values,
    context::{Context, Usage},
    log_stream::Patience,
    output::text,
};

mod attach;
mod report;
mod watch;

/// Characters of the command that an upload's message quotes.
const QUOTED: usize = 200;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ds run python train.py
  ds run -p digits -I python:3.12 -e EPOCHS=40 --gpus 1 -- python train.py --fast
  ds run -p digits --upload-path . -- python train.py
  ds run -d --repo https://example.org/digits.git --ref main -- make train

The command's home and working directory is the project's workspace. Its output goes to stdout as it comes; with --json \
it goes to stderr, and stdout gets the ended task with its runs. Ctrl-C ends the task and waits for its end, a second one \
leaves it alone.

Exit code: the command's; 1 if the task failed without one, 124 if its time was over, 130 if it was cancelled.")]
pub(crate) struct RunArgs {
    /// Project, by name or id. Without it: `DS_PROJECT`, or the only project there is.
    #[arg(short, long)]
    project: Option<String>,
    /// Print the task's id and do not wait.
    #[arg(short, long, visible_alias = "async")]
    detach: bool,
    /// The container image. Without it: the hub's default image.
    #[arg(short = 'I', long)]
    image: Option<String>,
    /// An environment variable of the command; `KEY` alone takes the value that it has here. May be repeated.
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = values::environment)]
    environment: Vec<(String, String)>,
    /// GPUs: a number, or `all`.
    #[arg(long, value_name = "N", value_parser = values::gpus)]
    gpus: Option<Gpus>,
    /// The same as `--gpus all`.
    #[arg(long, conflicts_with = "gpus")]
    nvidia: bool,
    /// CPUs that it may use, such as 1.5.
    #[arg(long, value_name = "N")]
    cpus: Option<f64>,
    /// Memory that it may use, such as 512M or 2G.
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    memory: Option<u64>,
    /// End the command after this time, such as 90s, 10m or 1h30m.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    timeout: Option<u64>,
    /// A label that the runner must have. May be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::key_value)]
    labels: Vec<(String, String)>,
    /// A git repository to check out into the workspace first.
    #[arg(long, value_name = "URL")]
    repo: Option<String>,
    /// Its branch, tag or commit. Without it: its default branch.
    #[arg(long = "ref", value_name = "REF", requires = "repo")]
    reference: Option<String>,
    /// Upload this folder into the workspace first. `.git` is left out, links are kept as links.
    #[arg(long, value_name = "DIR")]
    upload_path: Option<PathBuf>,
    /// Say more about what happens.
    #[arg(short, long)]
    verbose: bool,
    /// The command and its arguments, not passed through a shell.
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

/// Runs a command on a runner. Returns the exit code.
pub(crate) async fn run(context: &Context, args: RunArgs) -> Result<u8> {
    let spec = spec(&args);
    spec.validate().map_err(Usage)?;
    let project = context.project(args.project.as_deref()).await?;
    if let Some(folder) = &args.upload_path {
        let command: String = text::command(&spec.command).chars().take(QUOTED).collect();
        let message = format!("upload for: {command}");
        upload(context, ["projects", &project], folder, "", &message).await?;
    }
    let id = TaskId(Uuid::new_v4());
    let request = CreateTask { id: Some(id), spec };
    if args.detach {
        let task = create(context, &project, &request).await?;
        return if context.out.json { context.out.print_json(&task) } else { context.out.print(task.id) }
            .map(|()| 0);
    }
    // Before there is a task: from here on Ctrl-C must not leave one behind.
    let mut interrupts = attach::Interrupts::listen()?;
    tokio::select! {
        created = create(context, &project, &request) => created?,
        () = interrupts.next() => {
            // It may exist although its answer has not come yet.
            let _ = context.client.post(&["tasks", &id.to_string(), "cancel"]).done().await;
            return Ok(attach::CANCELLED);
        }
    };
    match attach::attach(context, id, args.verbose, &mut interrupts).await? {
        Some(task) => report::report(context, &task).await,
        None => Ok(attach::CANCELLED),
    }
}

/// Creates the task. Its id is ours, so that asking again after a broken connection does not make a second one.
async fn create(context: &Context, project: &str, request: &CreateTask) -> Result<Task> {
    let mut patience = Patience::new(&context.out);
    for _ in 0..4 {
        match context.client.post(&["projects", project, "tasks"]).body(request).json().await {
            Ok(task) => return Ok(task),
            Err(error) => patience.outlast(error).await?,
        }
    }
    Ok(context.client.post(&["projects", project, "tasks"]).body(request).json().await?)
}

fn spec(args: &RunArgs) -> TaskSpec {
    let repository = args
        .repo
        .clone()
        .map(|url| Repository { url, reference: args.reference.clone().unwrap_or_default() });
    TaskSpec {
        command: args.command.clone(),
        image: args.image.clone().unwrap_or_default(),
        environment: args.environment.iter().cloned().collect(),
        cpus: args.cpus,
        memory_bytes: args.memory,
        gpus: if args.nvidia { Some(Gpus::All) } else { args.gpus },
        timeout_seconds: args.timeout,
        labels: args.labels.iter().cloned().collect(),
        repository,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parse(line: &str) -> TaskSpec {
        spec(&Only::try_parse_from(line.split(' ')).unwrap().run)
    }

    #[test]
    fn flags_become_a_spec_and_the_command_keeps_its_own() {
        let spec = parse(
            "run -e A=1 -e B= --gpus 2 --cpus 1.5 --memory 2G --timeout 10m --label gpu=a100 python t.py -e x --json",
        );
        assert_eq!(spec.command, ["python", "t.py", "-e", "x", "--json"]);
        assert_eq!(spec.environment, [("A".into(), "1".into()), ("B".into(), String::new())].into());
        assert_eq!(
            (spec.gpus, spec.cpus, spec.memory_bytes),
            (Some(Gpus::Count(2)), Some(1.5), Some(2 << 30))
        );
        assert_eq!((spec.timeout_seconds, spec.labels["gpu"].as_str()), (Some(600), "a100"));
        assert_eq!(parse("run --nvidia -- sh -c x").gpus, Some(Gpus::All));
    }

    #[test]
    fn a_repository_may_go_without_a_reference() {
        let repository = parse("run --repo https://a.org/x --ref main true").repository.unwrap();
        assert_eq!((repository.url.as_str(), repository.reference.as_str()), ("https://a.org/x", "main"));
        assert_eq!(parse("run --repo u true").repository.unwrap().reference, "");
        assert!(Only::try_parse_from("run --ref main true".split(' ')).is_err());
    }
}

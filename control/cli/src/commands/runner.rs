//! `ds runner`.

use anyhow::Result;
use clap::Subcommand;
use ds_domain::api::{CreateRunner, CreatedRunner, Page, Runner};

use crate::{
    context::Context,
    output::{Table, text},
    roles,
};

#[derive(Debug, Subcommand)]
pub(crate) enum RunnerCommand {
    /// Be a runner: execute the hub's tasks on this machine.
    Run(roles::runner::RunnerArgs),
    /// Announce a machine and print the command that turns it into a runner. Admins only.
    #[command(after_help = "Example:\n  ds runner create dgx-1")]
    Create {
        /// Letters, digits, `-`, `_` and `.`; unique on the hub.
        name: String,
    },
    /// List the runners.
    #[command(after_help = "Example:\n  ds runner ls")]
    Ls,
    /// Show a runner and its machine.
    #[command(after_help = "Example:\n  ds runner show dgx-1")]
    Show {
        /// Runner, by name or id.
        runner: String,
    },
    /// Forget a runner: it is refused from now on. Admins only.
    #[command(after_help = "Example:\n  ds runner rm dgx-1")]
    Rm {
        /// Runner, by name or id.
        runner: String,
    },
}

pub(crate) async fn run(context: &Context, command: RunnerCommand) -> Result<()> {
    match command {
        RunnerCommand::Run(_) => unreachable!("a role asks no hub as a person"),
        RunnerCommand::Create { name } => create(context, name).await,
        RunnerCommand::Ls => list(context).await,
        RunnerCommand::Show { runner } => show(context, &runner).await,
        RunnerCommand::Rm { runner } => {
            context.client.delete(&["runners", &runner]).done().await?;
            context.out.note(format_args!("the runner {runner} is forgotten"));
            Ok(())
        }
    }
}

async fn create(context: &Context, name: String) -> Result<()> {
    let created: CreatedRunner =
        context.client.post(&["runners"]).body(&CreateRunner { name }).json().await?;
    if context.out.json {
        return context.out.print_json(&created);
    }
    let hours = (created.expires_ms - text::now_ms() + 1_800_000) / 3_600_000;
    context.out.note(format_args!(
        "on the machine that shall be the runner {}, as root, with the name of a dataset for it in place of POOL/runner \
         (the token works once, for the next {hours} h):",
        created.runner.name
    ));
    // In the environment, since arguments can be seen by everyone on the machine.
    context.out.print(format_args!("DS_RUNNER_TOKEN={} ds runner run --dataset POOL/runner", created.token))
}

async fn list(context: &Context) -> Result<()> {
    let runners: Page<Runner> = context.client.get(&["runners"]).pages(None).await?;
    if context.out.json {
        return context.out.print_json(&runners);
    }
    if runners.items.is_empty() {
        context.out.note("no runners yet: make a machine one with `ds runner create NAME`");
        return Ok(());
    }
    let mut table = Table::new(["=ID", "NAME", "=STATE", ">BUSY", "=SEEN", "LABELS", "MACHINE"]);
    for runner in runners.items {
        table.row([
            text::short(runner.id),
            runner.name.clone(),
            state(&runner).into(),
            format!("{}/{}", runner.busy, runner.slots),
            runner.seen_ms.map(text::ago).unwrap_or_default(),
            text::pairs(&runner.labels),
            machine(&runner),
        ]);
    }
    context.out.print_table(&table)
}

async fn show(context: &Context, wanted: &str) -> Result<()> {
    let runner: Runner = context.client.get(&["runners", wanted]).json().await?;
    if context.out.json {
        return context.out.print_json(&runner);
    }
    let machine = runner.machine.clone().unwrap_or_default();
    let memory = if machine.memory_bytes > 0 { text::size(machine.memory_bytes) } else { String::new() };
    let cpus = if machine.cpus > 0 { machine.cpus.to_string() } else { String::new() };
    context.out.print_fields(&[
        ("runner", runner.name.clone()),
        ("id", runner.id.to_string()),
        ("state", state(&runner).into()),
        ("tasks", format!("{} of {}", runner.busy, text::count(runner.slots.into(), "slot"))),
        ("labels", text::pairs(&runner.labels)),
        ("version", runner.version.clone()),
        ("created", text::moment(runner.created_ms)),
        ("last heard", runner.seen_ms.map(text::moment).unwrap_or_default()),
        ("platform", machine.platform),
        ("system", machine.os_version),
        ("cpus", cpus),
        ("memory", memory),
        ("gpus", machine.gpus.join(", ")),
        ("zfs", machine.zfs),
        ("docker", machine.docker),
    ])
}

fn state(runner: &Runner) -> &'static str {
    match (runner.registered, runner.online) {
        (false, _) => "unregistered",
        (true, true) => "online",
        (true, false) => "offline",
    }
}

fn machine(runner: &Runner) -> String {
    let Some(machine) = &runner.machine else { return String::new() };
    let gpus = match machine.gpus.len() {
        0 => String::new(),
        count => format!(", {}", text::count(count as u64, "GPU")),
    };
    let cpus = text::count(machine.cpus.into(), "CPU");
    format!("{cpus}, {}{gpus}", text::size(machine.memory_bytes))
}

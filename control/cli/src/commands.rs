//! The commands, one file a noun: its arguments, and what it does with them.

use anyhow::{Context as _, Result};

use crate::{
    args::{Cli, Command, Globals},
    context::Context,
    roles, sync,
};

pub(crate) mod commit;
pub(crate) mod completions;
pub(crate) mod dataset;
pub(crate) mod files;
pub(crate) mod key;
pub(crate) mod login;
pub(crate) mod members;
pub(crate) mod project;
pub(crate) mod run;
pub(crate) mod runner;
pub(crate) mod runs;
pub(crate) mod set;
pub(crate) mod task;
mod upload;
pub(crate) mod user;

/// Runs a command. Returns the process's exit code.
pub(crate) fn run(cli: Cli) -> Result<u8> {
    match cli.command {
        Command::Completions(args) => completions::print(&args)?,
        Command::Hub(args) => roles::hub::run(&args, cli.globals)?,
        Command::Store(args) => roles::store::run(args)?,
        Command::Runner(runner::RunnerCommand::Run(args)) => roles::runner::run(args)?,
        Command::Sync(args) => return sync::run(*args, cli.globals),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            return runtime.context("cannot start")?.block_on(verb(command, cli.globals));
        }
    }
    Ok(0)
}

/// What a person asks of a hub.
async fn verb(command: Command, globals: Globals) -> Result<u8> {
    let context = &Context::new(globals)?;
    match command {
        Command::Login(args) => login::login(context, args).await?,
        Command::Logout => login::logout(context).await?,
        Command::Whoami => login::whoami(context).await?,
        Command::Set(command) => set::run(context, command)?,
        Command::Key(command) => key::run(context, command).await?,
        Command::User(command) => user::run(context, command).await?,
        Command::Project(command) => project::run(context, command).await?,
        Command::Dataset(command) => dataset::run(context, command).await?,
        Command::Run(args) => return run::run(context, *args).await,
        Command::Task(command) => task::run(context, command).await?,
        Command::Runs(command) => runs::run(context, command).await?,
        Command::Commit(command) => commit::run(context, command).await?,
        Command::Files(command) => files::run(context, command).await?,
        Command::Runner(command) => runner::run(context, command).await?,
        Command::Completions(_) | Command::Hub(_) | Command::Store(_) | Command::Sync(_) => {
            unreachable!("these have a runtime of their own, or need none")
        }
    }
    Ok(0)
}

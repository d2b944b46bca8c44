//! The commands, one file a noun: its arguments, and what it does with them.

use anyhow::{Context as _, Result};

use crate::{
    args::{Cli, Command},
    context::Context,
};

pub(crate) mod commit;
pub(crate) mod completions;
pub(crate) mod files;
pub(crate) mod key;
pub(crate) mod login;
pub(crate) mod project;
pub(crate) mod run;
pub(crate) mod runner;
pub(crate) mod runs;
pub(crate) mod set;
pub(crate) mod task;
pub(crate) mod user;

/// Runs a command. Returns the process's exit code.
pub(crate) fn run(cli: Cli) -> Result<u8> {
    if let Command::Completions(args) = &cli.command {
        return completions::print(args).map(|()| 0);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start")?.block_on(verb(cli))
}

async fn verb(cli: Cli) -> Result<u8> {
    let context = &Context::new(cli.globals)?;
    match cli.command {
        Command::Login(args) => login::login(context, args).await?,
        Command::Logout => login::logout(context).await?,
        Command::Whoami => login::whoami(context).await?,
        Command::Set(command) => set::run(context, command)?,
        Command::Key(command) => key::run(context, command).await?,
        Command::User(command) => user::run(context, command).await?,
        Command::Project(command) => project::run(context, command).await?,
        Command::Run(args) => return run::run(context, *args).await,
        Command::Task(command) => task::run(context, command).await?,
        Command::Runs(command) => runs::run(context, command).await?,
        Command::Commit(command) => commit::run(context, command).await?,
        Command::Files(command) => files::run(context, command).await?,
        Command::Runner(command) => runner::run(context, command).await?,
        Command::Completions(_) => unreachable!("handled before a runtime was needed"),
    }
    Ok(0)
}

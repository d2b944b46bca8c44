//! What can be typed: the tree of commands. Each noun's own arguments stand beside its code in [`crate::commands`].

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    commit, completions, dataset, files, key, login, project, run, runner, runs, set, task, user,
};
use crate::{roles, sync};

pub(crate) mod values;

/// Runs tasks on machines of your own and keeps the runs, their data and their models together.
#[derive(Debug, Parser)]
#[command(
    name = "ds",
    version,
    arg_required_else_help = true,
    after_help = "Examples:
  ds login ann --url https://hub.example.org
  ds project create digits
  ds run -p digits -- python train.py
  ds runs ls digits --sort metric.accuracy

Environment:
  DS_URL, DOTSCIENCE_URL   the hub's URL
  DS_TOKEN                 an API key or a session's token
  DOTSCIENCE_USERNAME, DOTSCIENCE_PASSWORD
                           a login; the password may be an API key
  DS_PROJECT               the project of commands that name none
  NO_COLOR                 no colours

Exit codes: 0 done, 1 failed, 2 wrong usage; `ds run` returns its command's."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Globals {
    /// Print JSON, as the hub's API gives it, instead of text for people.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Log in to a hub and remember the session.
    Login(login::LoginArgs),
    /// End the session and forget it.
    #[command(after_help = "Example:\n  ds logout")]
    Logout,
    /// Show who is logged in, and where.
    #[command(after_help = "Example:\n  ds whoami")]
    Whoami,
    /// Change a setting.
    #[command(subcommand)]
    Set(set::SetCommand),
    /// API keys for programs.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// People with a login.
    #[command(subcommand)]
    User(user::UserCommand),
    /// Projects and their members.
    #[command(subcommand)]
    Project(project::ProjectCommand),
    /// Datasets: files under version control, for any project.
    #[command(subcommand)]
    Dataset(dataset::DatasetCommand),
    /// Run a command on a runner, in the project's workspace.
    Run(Box<run::RunArgs>),
    /// Tasks: what was asked to be executed.
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Runs: what was recorded.
    #[command(subcommand)]
    Runs(runs::RunsCommand),
    /// Commits of a project's workspace.
    #[command(subcommand)]
    Commit(commit::CommitCommand),
    /// Files of a workspace or dataset, at any commit.
    #[command(subcommand)]
    Files(files::FilesCommand),
    /// Keep a tree of ZFS datasets in step with one at another node.
    Sync(Box<sync::SyncArgs>),
    /// Machines that execute tasks.
    #[command(subcommand)]
    Runner(runner::RunnerCommand),
    /// Be a hub: what people and runners connect to, with the store in the same process.
    Hub(Box<roles::hub::HubArgs>),
    /// Be a store of its own: keep volumes for a hub that runs elsewhere.
    Store(roles::store::StoreArgs),
    /// Print the completion script of a shell.
    Completions(completions::CompletionsArgs),
}

/// The project of a listing: as an argument, with `-p`, from `DS_PROJECT`, or the only one there is.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ProjectChoice {
    /// Project, by name or id.
    #[arg(value_name = "PROJECT", conflicts_with = "flag")]
    positional: Option<String>,
    /// Project, by name or id. Without it: `DS_PROJECT`, or the only project there is.
    #[arg(short = 'p', long = "project", value_name = "PROJECT", id = "flag")]
    flag: Option<String>,
}

impl ProjectChoice {
    pub(crate) fn name(&self) -> Option<&str> {
        self.positional.as_deref().or(self.flag.as_deref())
    }
}

#[cfg(test)]
mod tests;

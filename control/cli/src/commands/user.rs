//! `ds user`.

use anyhow::Result;
use clap::{Args, Subcommand};
use ds_domain::api::{ChangePassword, ChangedPassword, CreateUser, CreatedUser, Page, RemovedUser, User};

use super::login::new_password;
use crate::{
    config::{Config, is_exposed},
    context::{Context, warn_exposed},
    output::{Table, text},
    prompt,
};

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Make a user. Admins only.
    Create(CreateArgs),
    /// List the users.
    #[command(after_help = "Example:\n  ds user ls")]
    Ls,
    /// Change a password: your own, or anybody's as an admin.
    Passwd(PasswordArgs),
    /// Remove a user for good. Admins only.
    Rm(RemoveArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ds user create bob                     the hub makes a password, which is printed once
  ds user create bob --password          asks for the password
  ds user create root2 --admin --password-stdin < password-file")]
pub(crate) struct CreateArgs {
    /// Lower-case letters, digits, `-`, `_` and `.`.
    username: String,
    /// The user may do everything, such as creating users and runners.
    #[arg(long)]
    admin: bool,
    /// Ask for a password instead of letting the hub make one.
    #[arg(long, conflicts_with = "password_stdin")]
    password: bool,
    /// Read the password from the first line of stdin.
    #[arg(long)]
    password_stdin: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ds user passwd                         asks for your password, and twice for the new one
  ds user passwd bob                     the hub makes a password for bob, which is printed once
  ds user passwd bob --password-stdin < password-file

All sessions of the user end; API keys stay. For your own password, stdin has the current one in its first line and the
new one in its second.")]
pub(crate) struct PasswordArgs {
    /// Whose; without it your own.
    username: Option<String>,
    /// Ask for somebody else's new password instead of letting the hub make one.
    #[arg(long, conflicts_with = "password_stdin")]
    password: bool,
    /// Read passwords from stdin.
    #[arg(long)]
    password_stdin: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  ds user rm bob

Their sessions and API keys end, and they are no member of any project any more. What they made stays under their name,
which nobody else can get. Projects that only they owned become yours.")]
pub(crate) struct RemoveArgs {
    /// Who.
    username: String,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

pub(crate) async fn run(context: &Context, command: UserCommand) -> Result<()> {
    match command {
        UserCommand::Create(args) => create(context, args).await,
        UserCommand::Ls => list(context).await,
        UserCommand::Passwd(args) => change_password(context, args).await,
        UserCommand::Rm(args) => remove(context, &args).await,
    }
}

async fn create(context: &Context, args: CreateArgs) -> Result<()> {
    if is_exposed(context.client.url()) {
        warn_exposed(&context.out, context.client.url());
    }
    let password = if args.password || args.password_stdin {
        Some(new_password(&args.username, args.password_stdin).await?)
    } else {
        None
    };
    let request = CreateUser { username: args.username, password, admin: args.admin };
    let created: CreatedUser = context.client.post(&["users"]).body(&request).json().await?;
    if context.out.json {
        return context.out.print_json(&created);
    }
    context.out.note(format_args!("created the user {}", created.user.username));
    if let Some(password) = created.password {
        context.out.note("the password, not shown again:");
        context.out.print(password)?;
    }
    Ok(())
}

async fn list(context: &Context) -> Result<()> {
    let users: Page<User> = context.client.get(&["users"]).pages(None).await?;
    if context.out.json {
        return context.out.print_json(&users);
    }
    let mut table = Table::new(["=ID", "NAME", "=ADMIN", "=CREATED"]);
    for user in users.items {
        let admin = if user.admin { "yes" } else { "" };
        table.row([text::short(user.id), user.username, admin.into(), text::ago(user.created_ms)]);
    }
    context.out.print_table(&table)
}

async fn change_password(context: &Context, args: PasswordArgs) -> Result<()> {
    if is_exposed(context.client.url()) {
        warn_exposed(&context.out, context.client.url());
    }
    let me: User = context.client.get(&["whoami"]).json().await?;
    let username = args.username.unwrap_or_else(|| me.username.clone());
    let own = username == me.username;
    let current = match (own, args.password_stdin) {
        (false, _) => None,
        (true, true) => Some(prompt::secret_from_stdin()?),
        (true, false) => Some(prompt::secret(&format!("Current password of {username}: ")).await?),
    };
    let password = if own || args.password || args.password_stdin {
        Some(new_password(&username, args.password_stdin).await?)
    } else {
        None
    };
    let request = ChangePassword { current, password: password.clone() };
    let call = context.client.put(&["users", &username, "password"]).body(&request);
    let changed: ChangedPassword = call.json().await?;
    if let Some(password) = password.filter(|_| own) {
        log_in_again(context, &username, &password).await?;
    }
    if context.out.json {
        return context.out.print_json(&changed);
    }
    context
        .out
        .note(format_args!("the password of {username} is changed; all sessions of {username} are over"));
    if let Some(password) = changed.password {
        context.out.note("the password, not shown again:");
        context.out.print(password)?;
    }
    Ok(())
}

/// The session of this program ended with the others: makes a new one, if it was that which is kept.
async fn log_in_again(context: &Context, username: &str, password: &str) -> Result<()> {
    if context.settings.config.token.is_none() {
        return Ok(());
    }
    let session = context.client.login(username, password).await?;
    let config = Config { token: Some(session.token), ..context.settings.config.clone() };
    config.save(&context.settings.path)
}

async fn remove(context: &Context, args: &RemoveArgs) -> Result<()> {
    let username = &args.username;
    if !args.yes {
        let what = format!("This removes {username} for good; what they made stays.");
        prompt::confirm(&what, username).await?;
    }
    let removed: RemovedUser = context.client.delete(&["users", username]).json().await?;
    if context.out.json {
        return context.out.print_json(&removed);
    }
    context.out.note(format_args!("{username} is removed"));
    if !removed.inherited.is_empty() {
        let names = removed.inherited.join(", ");
        context.out.note(format_args!("you own now what only {username} owned: {names}"));
    }
    Ok(())
}

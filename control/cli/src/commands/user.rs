//! `ds user`.

use anyhow::Result;
use clap::{Args, Subcommand};
use ds_domain::api::{CreateUser, CreatedUser, Page, User};

use super::login::new_password;
use crate::{
    config::is_exposed,
    context::{Context, warn_exposed},
    output::{Table, text},
};

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Make a user. Admins only.
    Create(CreateArgs),
    /// List the users.
    #[command(after_help = "Example:\n  ds user ls")]
    Ls,
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

pub(crate) async fn run(context: &Context, command: UserCommand) -> Result<()> {
    match command {
        UserCommand::Create(args) => create(context, args).await,
        UserCommand::Ls => list(context).await,
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

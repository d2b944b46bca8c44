//! `ds login`, `ds logout`, `ds whoami`.

use anyhow::{Result, bail};
use clap::Args;
use ds_domain::api::{HubInfo, User};
use reqwest::Url;

use crate::{
    client::{Client, VERSION, shown},
    config::{self, Config, Credentials, is_exposed},
    context::{Context, Usage, warn_exposed},
    prompt,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ds login ann --url https://hub.example.org
  ds login admin --password-stdin < password-file

The session is kept in $XDG_CONFIG_HOME/dotstream/config.json, readable by you only.")]
pub(crate) struct LoginArgs {
    /// Who you are. Asked for if left out.
    username: Option<String>,
    /// The hub's URL. Kept for later commands.
    #[arg(long, value_name = "URL", value_parser = config::parse_url)]
    url: Option<Url>,
    /// Read the password from the first line of stdin instead of asking.
    #[arg(long)]
    password_stdin: bool,
}

pub(crate) async fn login(context: &Context, args: LoginArgs) -> Result<()> {
    let url = args.url.unwrap_or_else(|| context.settings.url.clone());
    let client = Client::new(url.clone(), Credentials::None);
    // Asked first: nobody should type a password for a hub that is not there.
    let hub = client.hub().await?;
    compare_versions(context, &hub);
    let username = match args.username.or_else(|| context.settings.username.clone()) {
        Some(username) => username,
        None => prompt::line("User name: ").await?,
    };
    if is_exposed(&url) {
        warn_exposed(&context.out, &url);
    }
    let password = if args.password_stdin {
        prompt::secret_from_stdin()?
    } else {
        prompt::secret(&format!("Password of {username} at {}: ", shown(&url))).await?
    };
    let session = client.login(&username, &password).await?;
    let config = Config {
        url: Some(url.clone()),
        username: Some(session.user.username.clone()),
        token: Some(session.token),
    };
    config.save(&context.settings.path)?;
    if context.out.json {
        return context.out.print_json(&session.user);
    }
    context.out.note(format_args!("logged in to {} as {}", shown(&url), session.user.username));
    for variable in ["DS_URL", "DOTSCIENCE_URL", "DS_TOKEN", "DOTSCIENCE_PASSWORD"] {
        if std::env::var_os(variable).is_some_and(|value| !value.is_empty()) {
            context.out.warn(format_args!("{variable} is set and goes before this login"));
        }
    }
    Ok(())
}

pub(crate) async fn logout(context: &Context) -> Result<()> {
    let Some(token) = context.settings.config.token.clone() else {
        context.out.note("not logged in");
        return Ok(());
    };
    let url = context.settings.config.url.clone().unwrap_or_else(|| context.settings.url.clone());
    let ended = Client::new(url, Credentials::Token(token)).post(&["logout"]).done().await;
    let config = Config { token: None, ..context.settings.config.clone() };
    config.save(&context.settings.path)?;
    if let Err(error) = ended {
        context
            .out
            .warn(format_args!("the session is forgotten here, but the hub could not be told: {error}"));
    } else {
        context.out.note("logged out");
    }
    Ok(())
}

pub(crate) async fn whoami(context: &Context) -> Result<()> {
    let user: User = context.client.get(&["whoami"]).json().await?;
    if context.out.json {
        return context.out.print_json(&user);
    }
    let role = if user.admin { " (admin)" } else { "" };
    context.out.print(format_args!("{}{role} at {}", user.username, shown(context.client.url())))
}

/// Warns where hub and program are of different releases; the API's answers may then not be understood.
fn compare_versions(context: &Context, hub: &HubInfo) {
    if hub.version != VERSION {
        let theirs = &hub.version;
        context.out.warn(format_args!(
            "the hub is version {theirs} and this ds is {VERSION}: install the same version"
        ));
    }
}

/// Reads a new password: from stdin, or twice from the terminal.
pub(crate) async fn new_password(username: &str, from_stdin: bool) -> Result<String> {
    if from_stdin {
        return prompt::secret_from_stdin();
    }
    let password = prompt::secret(&format!("New password of {username}: ")).await?;
    if prompt::secret("The same again: ").await? != password {
        bail!(Usage("the two passwords differ".into()));
    }
    Ok(password)
}

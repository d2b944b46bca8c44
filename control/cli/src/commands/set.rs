//! `ds set`.

use anyhow::Result;
use clap::Subcommand;
use reqwest::Url;

use crate::{client::shown, config, context::Context};

#[derive(Debug, Subcommand)]
pub(crate) enum SetCommand {
    /// Which hub to use. A session with another hub is forgotten.
    #[command(after_help = "Example:\n  ds set server-url https://hub.example.org")]
    ServerUrl {
        /// The hub's URL.
        #[arg(value_name = "URL", value_parser = config::parse_url)]
        url: Url,
    },
}

pub(crate) fn run(context: &Context, command: SetCommand) -> Result<()> {
    let SetCommand::ServerUrl { url } = command;
    let mut config = context.settings.config.clone();
    config.set_url(url.clone());
    config.save(&context.settings.path)?;
    context.out.note(format_args!("the hub is {}", shown(&url)));
    if config.token.is_none() {
        context.out.note("log in with `ds login USERNAME`");
    }
    Ok(())
}

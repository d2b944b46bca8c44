//! `ds key`.

use anyhow::{Result, bail};
use clap::Subcommand;
use ds_domain::api::{ApiKey, CreateKey, Page, Token};

use crate::{
    context::Context,
    output::{Table, text},
};

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make an API key and print it; it is not shown again.
    #[command(after_help = "Example:\n  ds key create ci > key && DS_TOKEN=$(cat key) ds whoami")]
    Create {
        /// What it is for.
        name: String,
    },
    /// List your API keys.
    #[command(after_help = "Example:\n  ds key ls")]
    Ls,
    /// Delete an API key: programs that use it are refused from now on.
    #[command(after_help = "Example:\n  ds key rm ci")]
    Rm {
        /// Its name, its id, or the first characters of its id.
        key: String,
    },
}

pub(crate) async fn run(context: &Context, command: KeyCommand) -> Result<()> {
    match command {
        KeyCommand::Create { name } => create(context, name).await,
        KeyCommand::Ls => list(context).await,
        KeyCommand::Rm { key } => remove(context, &key).await,
    }
}

async fn create(context: &Context, name: String) -> Result<()> {
    let token: Token = context.client.post(&["keys"]).body(&CreateKey { name }).json().await?;
    if context.out.json {
        return context.out.print_json(&token);
    }
    context.out.note("keep it safe, it is not shown again:");
    context.out.print(&token.token)
}

async fn list(context: &Context) -> Result<()> {
    let keys: Page<ApiKey> = context.client.get(&["keys"]).pages(None).await?;
    if context.out.json {
        return context.out.print_json(&keys);
    }
    let mut table = Table::new(["=ID", "NAME", "=CREATED", "=USED"]);
    for key in keys.items {
        let used = key.used_ms.map_or_else(|| "never".into(), text::ago);
        table.row([text::short(key.id), key.name, text::ago(key.created_ms), used]);
    }
    context.out.print_table(&table)
}

async fn remove(context: &Context, wanted: &str) -> Result<()> {
    let keys: Page<ApiKey> = context.client.get(&["keys"]).pages(None).await?;
    let matches: Vec<_> = keys
        .items
        .iter()
        .filter(|key| key.name == wanted || key.id.to_string().starts_with(wanted))
        .collect();
    let [key] = matches.as_slice() else {
        bail!("{} API keys match {wanted:?}: give an id from `ds key ls`", matches.len());
    };
    context.client.delete(&["keys", &key.id.to_string()]).done().await?;
    context.out.note(format_args!("deleted the key {} ({})", key.name, text::short(key.id)));
    Ok(())
}

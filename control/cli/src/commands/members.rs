//! Who may do what in a project or dataset: what `ds project member` and `ds dataset member` do alike.

use anyhow::Result;
use clap::ValueEnum;
use ds_domain::api::{Access, Member, Page};

use crate::{context::Context, output::Table};

/// [`Access`], as it is typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum AccessName {
    Viewer,
    Editor,
    Owner,
}

impl From<AccessName> for Access {
    fn from(name: AccessName) -> Self {
        match name {
            AccessName::Viewer => Self::Viewer,
            AccessName::Editor => Self::Editor,
            AccessName::Owner => Self::Owner,
        }
    }
}

/// `place` is what the API calls it, such as `projects/digits`.
pub(super) async fn set(
    context: &Context,
    [kind, name]: [&str; 2],
    username: &str,
    access: AccessName,
) -> Result<()> {
    let member = Member { username: username.to_owned(), access: access.into() };
    context.client.put(&[kind, name, "members", username]).body(&member).done().await?;
    context.out.note(format_args!("{username} is {} of {name}", member.access.as_str()));
    Ok(())
}

pub(super) async fn remove(context: &Context, [kind, name]: [&str; 2], username: &str) -> Result<()> {
    context.client.delete(&[kind, name, "members", username]).done().await?;
    context.out.note(format_args!("{username} is no member of {name} any more"));
    Ok(())
}

pub(super) async fn list(context: &Context, [kind, name]: [&str; 2]) -> Result<()> {
    let members: Page<Member> = context.client.get(&[kind, name, "members"]).pages(None).await?;
    if context.out.json {
        return context.out.print_json(&members);
    }
    let mut table = Table::new(["NAME", "ACCESS"]);
    for member in members.items {
        table.row([member.username, member.access.as_str().into()]);
    }
    context.out.print_table(&table)
}

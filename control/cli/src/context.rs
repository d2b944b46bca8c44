//! What every verb has at hand: settings, the hub, the output.

use anyhow::Result;
use ds_domain::api::{Page, Project};

use crate::{
    args::Globals,
    client::{self, Client},
    config::{Credentials, Settings, is_exposed},
    output::Output,
};

/// The person asked in a way that cannot be answered: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// What every verb has at hand.
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) client: Client,
    pub(crate) out: Output,
}

impl Context {
    pub(crate) fn new(globals: Globals) -> Result<Self> {
        let settings = Settings::read()?;
        let out = Output::detect(globals.json);
        if matches!(settings.credentials, Credentials::Password { .. }) && is_exposed(&settings.url) {
            warn_exposed(&out, &settings.url);
        }
        let client = Client::new(settings.url.clone(), settings.credentials.clone());
        Ok(Self { settings, client, out })
    }

    /// The project that was chosen: by name or id, else `DS_PROJECT`, else the only one there is.
    pub(crate) async fn project(&self, chosen: Option<&str>) -> Result<String> {
        if let Some(name) = chosen.or(self.settings.project.as_deref()) {
            return Ok(name.to_owned());
        }
        let projects: Page<Project> = self.client.get(&["projects"]).pages(Some(21)).await?;
        match projects.items.as_slice() {
            [] => {
                Err(Usage("there is no project yet: create one with `ds project create NAME`".into()).into())
            }
            [only] => Ok(only.name.clone()),
            several => {
                let names: Vec<_> = several.iter().take(20).map(|project| project.name.as_str()).collect();
                let more = if several.len() > 20 { ", ..." } else { "" };
                let names = names.join(", ");
                Err(Usage(format!("which project? Give -p NAME or set DS_PROJECT. There are: {names}{more}"))
                    .into())
            }
        }
    }
}

/// Says that a password is about to cross a network in the clear.
pub(crate) fn warn_exposed(out: &Output, url: &reqwest::Url) {
    let url = client::shown(url);
    out.warn(format_args!(
        "the password goes to {url} unencrypted; use https where others share the network"
    ));
}

/// `None` where the hub has no such thing.
pub(crate) fn found<T>(result: Result<T, client::Error>) -> Result<Option<T>, client::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

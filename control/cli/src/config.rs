//! Which hub, as whom: the configuration file and the environment that overrides it.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use reqwest::Url;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::context::Usage;

/// Where a hub listens that was started without flags.
const DEFAULT_URL: &str = "http://127.0.0.1:7600";

/// What is kept between calls, as `$XDG_CONFIG_HOME/dotstream/config.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// The hub's URL.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_url",
        deserialize_with = "read_url"
    )]
    pub(crate) url: Option<Url>,
    /// Who logged in there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) username: Option<String>,
    /// The session's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
}

impl Config {
    /// Reads the file; one that is not there is empty.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!("cannot understand {}: repair or delete it, then run `ds login`", path.display())
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes the file in one step, readable by its owner only.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        self.try_save(path).with_context(|| format!("cannot write {}", path.display()))
    }

    fn try_save(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().expect("the path of the configuration names a file in a folder");
        fs::create_dir_all(folder)?;
        // A temporary file has mode 600 from its first byte.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }

    /// Points at another hub. A token is for the hub that gave it, so it is dropped if the hub is another.
    pub(crate) fn set_url(&mut self, url: Url) {
        if self.url.as_ref() != Some(&url) {
            *self = Self { url: Some(url), ..Self::default() };
        }
    }
}

/// How to prove who is asking.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// Not at all.
    None,
    /// A session's token or an API key.
    Token(String),
    /// To be traded for a session when first needed.
    Password { username: String, password: String },
}

/// Configuration and environment, resolved.
pub(crate) struct Settings {
    pub(crate) path: PathBuf,
    pub(crate) config: Config,
    pub(crate) url: Url,
    pub(crate) credentials: Credentials,
    /// A user name that the environment gives.
    pub(crate) username: Option<String>,
    /// The project of commands that name none.
    pub(crate) project: Option<String>,
}

impl Settings {
    /// Reads the file and the environment of this process.
    pub(crate) fn read() -> Result<Self> {
        let env = |name: &str| std::env::var(name).ok();
        let path = config_path(&env)?;
        Self::resolve(Config::load(&path)?, path, &env)
    }

    fn resolve(config: Config, path: PathBuf, env: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let from_env = env("DS_URL").or_else(|| env("DOTSCIENCE_URL"));
        let url = match &from_env {
            Some(text) => parse_url(text).map_err(Usage)?,
            None => config.url.clone().unwrap_or_else(default_url),
        };
        // The remembered token goes to the hub that gave it and to no other.
        let remembered = config.token.clone().filter(|_| config.url.as_ref() == Some(&url));
        let username = env("DOTSCIENCE_USERNAME");
        let credentials = match (env("DS_TOKEN"), env("DOTSCIENCE_PASSWORD"), &username) {
            (Some(token), ..) => Credentials::Token(token),
            (None, Some(key), _) if key.starts_with("dsk_") => Credentials::Token(key),
            (None, Some(password), Some(username)) => {
                Credentials::Password { username: username.clone(), password }
            }
            (None, Some(_), None) => {
                return Err(
                    Usage("DOTSCIENCE_PASSWORD is set without DOTSCIENCE_USERNAME: set both".into()).into()
                );
            }
            (None, None, _) => remembered.map_or(Credentials::None, Credentials::Token),
        };
        Ok(Self { path, config, url, credentials, username, project: env("DS_PROJECT") })
    }
}

/// Reads a hub's URL as a person types it.
pub(crate) fn parse_url(text: &str) -> Result<Url, String> {
    let hint = "give the hub's URL, such as https://hub.example.org or http://127.0.0.1:7600";
    let mut url = Url::parse(text).map_err(|why| format!("{text:?} is no URL ({why}): {hint}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("{text:?} is not an http or https URL: {hint}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("the URL carries a login: leave it out and use `ds login`; {hint}"));
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// Whether what is sent to `url` could be read on the way.
pub(crate) fn is_exposed(url: &Url) -> bool {
    url.scheme() == "http" && !is_loopback(url)
}

/// Whether `url` is on this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[expect(clippy::ref_option, reason = "the signature that serde calls")]
fn write_url<S: Serializer>(url: &Option<Url>, to: S) -> Result<S::Ok, S::Error> {
    url.as_ref().map(Url::as_str).serialize(to)
}

fn read_url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Url>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| parse_url(&text).map_err(D::Error::custom)).transpose()
}

fn default_url() -> Url {
    Url::parse(DEFAULT_URL).expect("the default URL is one")
}

fn config_path(env: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf> {
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    let folder = folder.ok_or_else(|| Usage("neither XDG_CONFIG_HOME nor HOME is set: set one".into()))?;
    Ok(folder.join("dotstream/config.json"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn hub(host: &str) -> Url {
        parse_url(&format!("http://{host}")).unwrap()
    }

    fn logged_in() -> Config {
        Config { url: Some(hub("one:7600")), username: Some("ann".into()), token: Some("dss_1".into()) }
    }

    fn resolve(env: &[(&str, &str)]) -> Result<Settings> {
        let find = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Settings::resolve(logged_in(), PathBuf::new(), &find)
    }

    #[test]
    fn the_file_survives_a_round_trip_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/dotstream/config.json");
        assert_eq!(Config::load(&path).unwrap(), Config::default());
        logged_in().save(&path).unwrap();
        assert_eq!(Config::load(&path).unwrap(), logged_in());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // Written again over a file that somebody opened up, it is private again.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        Config::default().save(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "{").unwrap();
        assert!(Config::load(&path).unwrap_err().to_string().contains("repair or delete it"));
    }

    #[test]
    fn a_token_goes_only_to_the_hub_that_gave_it() {
        assert!(resolve(&[]).unwrap().credentials == Credentials::Token("dss_1".into()));
        assert!(resolve(&[("DS_URL", "http://two:7600")]).unwrap().credentials == Credentials::None);
        assert!(
            resolve(&[("DS_URL", "http://one:7600/")]).unwrap().credentials
                == Credentials::Token("dss_1".into())
        );
        let mut config = logged_in();
        config.set_url(hub("one:7600"));
        assert_eq!(config, logged_in());
        config.set_url(hub("two:7600"));
        assert_eq!((config.token, config.username), (None, None));
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let settings =
            resolve(&[("DOTSCIENCE_URL", "https://two"), ("DS_TOKEN", "t"), ("DS_PROJECT", "p")]).unwrap();
        assert_eq!((settings.url.as_str(), settings.project.as_deref()), ("https://two/", Some("p")));
        assert!(settings.credentials == Credentials::Token("t".into()));
        let both = [("DOTSCIENCE_USERNAME", "bob"), ("DOTSCIENCE_PASSWORD", "secret")];
        let Credentials::Password { username, password } = resolve(&both).unwrap().credentials else {
            panic!("a password was expected");
        };
        assert_eq!((username.as_str(), password.as_str()), ("bob", "secret"));
        assert!(
            resolve(&[("DOTSCIENCE_PASSWORD", "dsk_1")]).unwrap().credentials
                == Credentials::Token("dsk_1".into())
        );
        assert!(resolve(&[("DOTSCIENCE_PASSWORD", "secret")]).is_err());
    }

    #[test]
    fn urls_are_checked_and_trimmed() {
        assert_eq!(parse_url("https://a.org/ds/").unwrap().as_str(), "https://a.org/ds");
        for wrong in ["hub:7600", "hub.example.org", "ftp://a", "", "http://ann:secret@a"] {
            assert!(parse_url(wrong).is_err(), "{wrong:?} was taken for a URL");
        }
        for (url, exposed) in [
            ("http://127.0.0.1:7600", false),
            ("http://[::1]:7600", false),
            ("http://localhost", false),
            ("https://a.org", false),
            ("http://a.org", true),
        ] {
            assert_eq!(is_exposed(&parse_url(url).unwrap()), exposed, "{url}");
        }
    }
}

//! Where a tree lies, as it is typed.

use std::{fmt, str::FromStr};

use ds_domain::TreeName;

/// Where `ds sync serve` listens that is not told.
const PORT: &str = "7603";

/// A tree here or elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A dataset of this machine.
    Here(String),
    /// At another node.
    There(Far),
}

/// A tree at another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Far {
    pub(super) at: At,
    pub(super) tree: TreeName,
}

/// Which node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum At {
    /// The hub's store.
    Store,
    /// A runner of the hub that serves.
    Runner {
        /// Its name or id at the hub.
        runner: String,
        /// `host:port`.
        address: String,
    },
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let tree = |name: &str| name.parse::<TreeName>().map_err(|error| error.to_string());
        if let Some(name) = text.strip_prefix("store:") {
            return Ok(Self::There(Far { at: At::Store, tree: tree(name)? }));
        }
        if let Some((runner, rest)) = text.split_once('@') {
            let (address, name) =
                rest.rsplit_once(':').ok_or("expected RUNNER@HOST:NAME, such as alpha@10.0.0.7:photos")?;
            if runner.is_empty() || address.is_empty() {
                return Err("expected RUNNER@HOST:NAME, such as alpha@10.0.0.7:photos".into());
            }
            let at = At::Runner { runner: runner.to_owned(), address: with_port(address) };
            return Ok(Self::There(Far { at, tree: tree(name)? }));
        }
        if text.is_empty() || text.starts_with(['/', '-']) || text.contains(':') {
            return Err("expected a dataset such as tank/photos, store:NAME, or RUNNER@HOST:NAME".into());
        }
        Ok(Self::Here(text.to_owned()))
    }
}

impl fmt::Display for Far {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            At::Store => write!(f, "store:{}", self.tree),
            At::Runner { runner, address } => write!(f, "{runner}@{address}:{}", self.tree),
        }
    }
}

fn with_port(address: &str) -> String {
    let after_brackets = address.rsplit_once(']').map_or(address, |(_, rest)| rest);
    if after_brackets.contains(':') { address.to_owned() } else { format!("{address}:{PORT}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match text.parse::<Place>() {
            Ok(Place::Here(dataset)) => format!("here {dataset}"),
            Ok(Place::There(far)) => far.to_string(),
            Err(why) => format!("no: {why}"),
        }
    }

    #[test]
    fn places_are_told_apart() {
        assert_eq!(shown("tank/photos"), "here tank/photos");
        assert_eq!(shown("tank"), "here tank");
        assert_eq!(shown("store:photos"), "store:photos");
        assert_eq!(shown("alpha@10.0.0.7:photos"), "alpha@10.0.0.7:7603:photos");
        assert_eq!(shown("alpha@host:99:photos"), "alpha@host:99:photos");
        assert_eq!(shown("alpha@[::1]:photos"), "alpha@[::1]:7603:photos");
        assert_eq!(shown("alpha@[::1]:99:photos"), "alpha@[::1]:99:photos");
        for wrong in ["", "store:", "store:a/b", "alpha@host", "@host:x", "a@:x", "/tank", "-r", "other:x"] {
            assert!(shown(wrong).starts_with("no: "), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = text.parse::<Place>();
        }
    }
}

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The longest name, so that with a node's root before it and its owner's names behind it ZFS still takes it.
const LONGEST: usize = 63;

/// The name of a replicated tree of datasets at a node: one component of a dataset's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct TreeName(String);

/// A text that is no tree's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be the name of a tree: it takes 1 to 63 letters, digits, `-`, `_` or `.`, and begins with a letter or digit"
)]
pub struct InvalidTreeName(String);

impl TreeName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TreeName {
    type Err = InvalidTreeName;

    fn from_str(text: &str) -> Result<Self, InvalidTreeName> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins && text.len() <= LONGEST && text.chars().all(fits) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidTreeName(text.to_owned()))
    }
}

impl TryFrom<String> for TreeName {
    type Error = InvalidTreeName;

    fn try_from(text: String) -> Result<Self, InvalidTreeName> {
        text.parse()
    }
}

impl From<TreeName> for String {
    fn from(name: TreeName) -> Self {
        name.0
    }
}

impl fmt::Display for TreeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_component_and_no_option() {
        for good in ["photos", "a", "2024", "team-a.data_1"] {
            assert_eq!(good.parse::<TreeName>().unwrap().as_str(), good);
        }
        for wrong in ["", "a/b", "-r", ".", "..", "a b", "a@b", "ä", &"x".repeat(64)] {
            assert!(wrong.parse::<TreeName>().is_err(), "{wrong:?}");
            assert!(serde_json::from_value::<TreeName>(serde_json::json!(wrong)).is_err());
        }
    }
}

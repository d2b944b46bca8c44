//! Ids: one type for each noun, so that none is taken for another.
//!
//! Every id is a UUID. In text it is hyphenated; in names on a pool it is the 32 hex digits ([`std::fmt::LowerHex`] of
//! the inner value), and on the wire 16 raw bytes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// A text or byte string that is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id: expected a UUID such as 3f2c8a4e-0c7e-4f5b-9d1a-2b6f0f6f7a11")]
pub struct InvalidId(String);

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String, format = Uuid)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The 16 bytes that stand for it on the wire.
            pub fn to_bytes(self) -> Vec<u8> {
                self.0.as_bytes().to_vec()
            }

            /// Reads the 16 bytes of the wire.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidId> {
                Uuid::from_slice(bytes).map(Self).map_err(|_| InvalidId(format!("{bytes:02x?}")))
            }

            /// The 32 hex digits used in names on a pool.
            pub fn to_hex(self) -> String {
                self.0.simple().to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::parse_str(text).map(Self).map_err(|_| InvalidId(text.to_owned()))
            }
        }
    };
}

typed_id!(
    /// A person with a login.
    UserId
);
typed_id!(
    /// A project: one workspace, its tasks, commits and runs.
    ProjectId
);
typed_id!(
    /// A filesystem under version control.
    VolumeId
);
typed_id!(
    /// A point in a volume's history on some pool.
    SnapshotId
);
typed_id!(
    /// A snapshot with message, author, metadata and parents.
    CommitId
);
typed_id!(
    /// An intention to execute.
    TaskId
);
typed_id!(
    /// A recorded fact. Chosen by the workload where it publishes, by the hub where the run is derived.
    RunId
);
typed_id!(
    /// A machine that executes tasks.
    RunnerId
);
typed_id!(
    /// Any machine with an identity from the hub's CA: a runner, a store, the hub itself.
    NodeId
);

impl From<RunnerId> for NodeId {
    fn from(id: RunnerId) -> Self {
        Self(id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_bytes_and_hex_agree() {
        let id: TaskId = "3f2c8a4e-0c7e-4f5b-9d1a-2b6f0f6f7a11".parse().unwrap();
        assert_eq!(id.to_string(), "3f2c8a4e-0c7e-4f5b-9d1a-2b6f0f6f7a11");
        assert_eq!(id.to_hex(), "3f2c8a4e0c7e4f5b9d1a2b6f0f6f7a11");
        assert_eq!(TaskId::from_bytes(&id.to_bytes()).unwrap(), id);
        assert!(TaskId::from_bytes(b"short").is_err());
        assert!("../../etc".parse::<TaskId>().is_err());
    }
}

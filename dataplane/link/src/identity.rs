//! Who a node is: a certificate from the hub's CA, whose common name reads `<role>:<uuid>`.
//!
//! A certificate is valid from a day before it was made, so that clocks may differ, and for five years; the CA for ten.
//! A node's key never leaves it: the node makes a [`NodeKey`], the hub signs the request in it ([`Ca::sign_csr`]), and
//! key and certificate together are its [`Identity`]. [`Trust`] is the other side of it: what is believed because the
//! CA signed it.

mod bootstrap;
mod ca;
mod node;
mod trust;

use std::{fmt, str::FromStr};

use ds_domain::ids::NodeId;
use x509_parser::prelude::{FromDer, X509Certificate};

pub use bootstrap::fetch_ca;
pub use ca::Ca;
pub use node::{Identity, NodeKey};
pub use trust::Trust;

use crate::{Error, Result};

/// The name that the hub's certificate has besides its own, so that a node can verify a hub whose id it does not know.
pub const HUB_NAME: &str = "hub.node.dotstream";

/// What a node is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The control plane.
    Hub,
    /// A machine that executes tasks.
    Runner,
    /// A keeper of volumes.
    Store,
}

impl Role {
    /// The name in certificates.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Runner => "runner",
            Self::Store => "store",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The node at the other end: role and id, as the CA certified them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer {
    /// What it is.
    pub role: Role,
    /// Which one it is.
    pub node: NodeId,
}

impl Peer {
    /// Reads role and id out of a certificate's common name.
    ///
    /// Believe the answer only for a certificate that was verified: by the handshake of a link or of gRPC, or by
    /// [`Trust::peer`].
    pub fn from_certificate(der: &[u8]) -> Result<Self> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|e| Error::unusable("the certificate", e))?;
        let name = certificate.subject().iter_common_name().next().and_then(|n| n.as_str().ok());
        name.unwrap_or_default().parse()
    }

    /// The DNS name in its certificate: `<uuid>.node.dotstream`.
    pub fn dns_name(node: NodeId) -> String {
        format!("{node}.node.dotstream")
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.role, self.node)
    }
}

impl FromStr for Peer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::unusable("the certificate", format!("its name {text:?} is not of the form <role>:<uuid>"))
        };
        let (role, node) = text.split_once(':').ok_or_else(wrong)?;
        let role = [Role::Hub, Role::Runner, Role::Store].into_iter().find(|r| r.as_str() == role);
        Ok(Self { role: role.ok_or_else(wrong)?, node: node.parse().map_err(|_| wrong())? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        let peer = Peer { role: Role::Runner, node: NodeId(Uuid::from_u128(7)) };
        assert_eq!(peer.to_string().parse::<Peer>().unwrap(), peer);
        for wrong in ["", "runner", "runner:", "root:00000000-0000-0000-0000-000000000007", ":x"] {
            assert!(wrong.parse::<Peer>().is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn bytes_that_are_no_certificate_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            prop_assert!(Peer::from_certificate(&bytes).is_err());
        }
    }
}

//! What a person carries from the hub to a new node: `dsr1.<host:port, base64url>.<sha256 of the CA, hex>.<secret>`.

use std::{fmt, str::FromStr};

use aws_lc_rs::rand;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{Error, Result};

const PREFIX: &str = "dsr1";
const SECRET_BYTES: usize = 32;
const LONGEST: usize = 1024;

/// A registration token: where the hub is, how to know it, and a secret that works once.
///
/// `Display` gives the text with the secret in it; `Debug` leaves the secret out.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistrationToken {
    /// `host:port` of the hub's gRPC.
    pub address: String,
    /// SHA-256 of the DER of the hub's CA.
    pub ca_fingerprint: [u8; 32],
    /// The part that only this token's holder knows; base64url.
    pub secret: String,
}

impl RegistrationToken {
    /// Makes one with a fresh secret of 256 random bits.
    pub fn generate(address: &str, ca_fingerprint: [u8; 32]) -> Result<Self> {
        let mut secret = [0; SECRET_BYTES];
        rand::fill(&mut secret)
            .map_err(|_| Error::unusable("the system's source of randomness", "it failed"))?;
        Ok(Self { address: address.to_owned(), ca_fingerprint, secret: URL_SAFE_NO_PAD.encode(secret) })
    }
}

impl fmt::Display for RegistrationToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = URL_SAFE_NO_PAD.encode(&self.address);
        write!(f, "{PREFIX}.{address}.{}.{}", hex::encode(self.ca_fingerprint), self.secret)
    }
}

impl fmt::Debug for RegistrationToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationToken").field("address", &self.address).finish_non_exhaustive()
    }
}

impl FromStr for RegistrationToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.len() > LONGEST {
            return Err(Error::Token("it is too long"));
        }
        let parts: Vec<_> = text.split('.').collect();
        let &[prefix, address, fingerprint, secret] = parts.as_slice() else {
            return Err(Error::Token("it does not have four parts with dots between them"));
        };
        if prefix != PREFIX {
            return Err(Error::Token("it does not begin with `dsr1.`"));
        }
        let address = URL_SAFE_NO_PAD
            .decode(address)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .filter(|text| is_host_and_port(text))
            .ok_or(Error::Token("its second part is not an address"))?;
        let mut ca_fingerprint = [0; 32];
        hex::decode_to_slice(fingerprint, &mut ca_fingerprint)
            .map_err(|_| Error::Token("its third part is not a fingerprint"))?;
        if URL_SAFE_NO_PAD.decode(secret).map(|s| s.len()) != Ok(SECRET_BYTES) {
            return Err(Error::Token("its last part is not a secret"));
        }
        Ok(Self { address, ca_fingerprint, secret: secret.to_owned() })
    }
}

fn is_host_and_port(text: &str) -> bool {
    let printable = text.chars().all(|c| c.is_ascii_graphic());
    printable
        && text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written() {
        for address in ["hub.example.org:7601", "192.0.2.1:7601", "[2001:db8::1]:7601"] {
            let token = RegistrationToken::generate(address, [0xab; 32]).unwrap();
            let text = token.to_string();
            assert_eq!(format!(" {text}\n").parse::<RegistrationToken>().unwrap(), token);
            assert!(!format!("{token:?}").contains(&token.secret));
            assert!(text[..text.len() - 1].parse::<RegistrationToken>().is_err());
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let said = |text: &str| text.parse::<RegistrationToken>().unwrap_err().to_string();
        assert!(said("").contains("four parts"));
        assert!(said("dsr2.a.b.c").contains("dsr1"));
        assert!(said("dsr1.a.b.c").contains("address"));
    }

    proptest! {
        #[test]
        fn nothing_makes_the_parser_panic(text in ".{0,200}") {
            let _ = text.parse::<RegistrationToken>();
            let _ = format!("dsr1.{text}").parse::<RegistrationToken>();
        }
    }
}

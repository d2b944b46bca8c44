use std::{io, path::PathBuf};

use quinn::ConnectionError;
use rustls::AlertDescription;

use crate::framing::FrameError;

/// What can go wrong with identities and links.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key or certificate could not be made.
    #[error("could not make {what}")]
    Make {
        /// The thing, with its article: "a key pair".
        what: &'static str,
        #[source]
        #[expect(missing_docs, reason = "the cause")]
        source: rcgen::Error,
    },
    /// A certificate, key or request that cannot be used.
    #[error("{what} cannot be used: {reason}")]
    Unusable {
        /// The thing, with its article: "the certificate".
        what: &'static str,
        /// Why, for people.
        reason: String,
    },
    /// A file of an identity could not be read or written.
    #[error("could not {action} {}", path.display())]
    File {
        /// "read", "write", "create the folder".
        action: &'static str,
        /// Which one.
        path: PathBuf,
        #[source]
        #[expect(missing_docs, reason = "the cause")]
        source: io::Error,
    },
    /// A registration token that was mistyped or cut.
    #[error("this is no registration token: {0}; copy it again, whole, as the hub printed it")]
    Token(&'static str),
    /// The hub at the token's address is not the one that made the token.
    #[error(
        "{address} is not the hub that made this token: it does not show the CA whose fingerprint the token carries; \
         make a new token at the hub, or check the address"
    )]
    WrongCa {
        /// Where it was.
        address: String,
    },
    /// The other end does not accept us, or we don't accept it: a certificate of another hub, expired, or another node
    /// than expected.
    #[error("the link with {who} was refused: {reason}")]
    Refused {
        /// Node or address.
        who: String,
        /// Why, in TLS's words.
        reason: String,
    },
    /// The address cannot be reached from here at all.
    #[error("{who} cannot be reached: {reason}")]
    Unreachable {
        /// Node or address.
        who: String,
        /// Why.
        reason: String,
    },
    /// Nobody answered, or the other end fell silent.
    #[error("{who} does not answer: check that it runs and that its port is reachable (over UDP or TCP)")]
    TimedOut {
        /// Node or address.
        who: String,
    },
    /// The link is gone, though neither end meant to close it.
    #[error("the link with {who} was lost: {reason}")]
    Lost {
        /// Node or address.
        who: String,
        /// In QUIC's words, or the kernel's.
        reason: String,
    },
    /// The other end closed the link or the stream.
    #[error("{who} closed the connection: {reason}")]
    Closed {
        /// Node or address.
        who: String,
        /// In its words.
        reason: String,
    },
    /// The other end broke the framing of a control stream.
    #[error("a message that cannot be read")]
    Frame(#[from] FrameError),
    /// A socket could not be opened.
    #[error("could not listen on {address}")]
    Bind {
        /// Where.
        address: std::net::SocketAddr,
        #[source]
        #[expect(missing_docs, reason = "the cause")]
        source: io::Error,
    },
}

impl Error {
    /// Whether the same call can succeed later with nothing changed by a person.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Lost { .. } | Self::Closed { .. }
        )
    }

    /// Whether a link ended though neither end meant it to: the network failed, or the other process died.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Lost { .. })
    }

    pub(crate) fn unusable(what: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::Unusable { what, reason: reason.to_string() }
    }

    /// Of a TCP connection, or of the TLS session on it.
    pub(crate) fn tcp(who: impl std::fmt::Display, error: &io::Error) -> Self {
        let (who, reason) = (who.to_string(), error.to_string());
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match (tls, error.kind()) {
            (Some(rustls::Error::AlertReceived(alert)), _) if tells_of_damage(*alert) => {
                Self::Lost { who, reason }
            }
            (Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)), _) => {
                Self::Refused { who, reason }
            }
            (_, io::ErrorKind::TimedOut) => Self::TimedOut { who },
            (
                _,
                io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable,
            ) => Self::Unreachable { who, reason },
            _ => Self::Lost { who, reason },
        }
    }

    pub(crate) fn connection(who: impl std::fmt::Display, error: &ConnectionError) -> Self {
        let who = who.to_string();
        match error {
            ConnectionError::TransportError(e) if is_crypto(e.code) => {
                Self::Refused { who, reason: e.reason.clone() }
            }
            ConnectionError::ConnectionClosed(close) if is_crypto(close.error_code) => {
                Self::Refused { who, reason: format!("it says: {close}") }
            }
            ConnectionError::TimedOut => Self::TimedOut { who },
            ConnectionError::VersionMismatch => {
                Self::Refused { who, reason: "it speaks no version of QUIC that we do".into() }
            }
            ConnectionError::Reset
            | ConnectionError::TransportError(_)
            | ConnectionError::ConnectionClosed(_) => Self::Lost { who, reason: error.to_string() },
            ConnectionError::ApplicationClosed(close) => {
                Self::Closed { who, reason: String::from_utf8_lossy(&close.reason).into_owned() }
            }
            other => Self::Closed { who, reason: other.to_string() },
        }
    }
}

/// Whether the other end says that it cannot read what arrives, and not that it does not want us: bytes were damaged on their way.
fn tells_of_damage(alert: AlertDescription) -> bool {
    use AlertDescription::{BadRecordMac, DecodeError, RecordOverflow, UnexpectedMessage};
    matches!(alert, BadRecordMac | DecodeError | RecordOverflow | UnexpectedMessage)
}

/// QUIC carries TLS alerts as the codes 0x100 to 0x1ff (RFC 9001, 4.8).
fn is_crypto(code: quinn::TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_on_the_way_is_no_refusal() {
        let alerted = |alert| Error::tcp("them", &io::Error::other(rustls::Error::AlertReceived(alert)));
        assert!(alerted(AlertDescription::BadRecordMac).is_lost());
        assert!(matches!(alerted(AlertDescription::UnknownCA), Error::Refused { .. }));
        assert!(matches!(alerted(AlertDescription::CertificateExpired), Error::Refused { .. }));
    }
}

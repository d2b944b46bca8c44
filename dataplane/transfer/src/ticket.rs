//! Tickets: the hub's signed permission to move one snapshot, once, between one peer and one store.
//!
//! A [`TicketSigner`] lives in the hub, a [`TicketVerifier`] in each store. The verifier asks nobody: it knows the hub's
//! public key, who is at the other end of the link, and the time by the hub's clock.

mod tree;

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ds_domain::ids::{NodeId, SnapshotId, VolumeId};
use ds_proto::v1::{Direction, SignedTicket, Ticket};
use prost::Message;

pub use tree::TreeGrant;

/// Keeps a ticket's signature from being taken for one over something else.
const CONTEXT: &[u8] = b"dotstream ticket 1\0";

/// The longest that a ticket may be valid: for so long its id has to be remembered.
pub const MAX_LIFETIME_MS: i64 = 60 * 60 * 1000;

/// How far in the future a ticket may have been issued: the hub's clock is known only to within a round trip.
const ISSUE_TOLERANCE_MS: i64 = 10_000;

/// Tickets remembered as used, 40 bytes each. Beyond that new ones are refused until old ones expire.
const MAX_REMEMBERED: usize = 100_000;

/// The hub's key for tickets.
pub struct TicketSigner {
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
}

/// A key that cannot be made or read.
#[derive(Debug, thiserror::Error)]
#[error("the ticket key cannot be {0}")]
pub struct KeyError(&'static str);

impl TicketSigner {
    /// Makes a new key.
    pub fn create() -> Result<Self, KeyError> {
        let pair =
            Ed25519KeyPair::generate().map_err(|_| KeyError("made: the system's randomness failed"))?;
        let document = pair.to_pkcs8().map_err(|_| KeyError("made"))?;
        Ok(Self { pkcs8: document.as_ref().to_vec(), pair })
    }

    /// Reads what [`TicketSigner::pkcs8`] gave.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8)
            .map_err(|_| KeyError("read: the file holds no Ed25519 key in PKCS#8"))?;
        Ok(Self { pair, pkcs8: pkcs8.to_vec() })
    }

    /// The private key. Keep it in a file of mode 600.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// What stores verify with.
    pub fn public_key(&self) -> [u8; 32] {
        self.pair.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes")
    }

    /// Signs a ticket. Choose a fresh id for each, and a lifetime of at most [`MAX_LIFETIME_MS`].
    pub fn sign(&self, ticket: &Ticket) -> SignedTicket {
        let payload = ticket.encode_to_vec();
        let signature = self.pair.sign(&[CONTEXT, &payload].concat()).as_ref().to_vec();
        SignedTicket { payload, signature }
    }
}

/// What a verified ticket allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The volume that it is about.
    pub volume: VolumeId,
    /// The one snapshot that may be moved.
    pub snapshot: SnapshotId,
    /// Push: the snapshot that the stream must start from; `None` for a full stream.
    pub base: Option<SnapshotId>,
    /// From the peer to the store, or the other way.
    pub direction: Direction,
}

/// Who presents a ticket, to whom, and when.
#[derive(Debug, Clone, Copy)]
pub struct Presentation {
    /// The node at the other end of the link.
    pub peer: NodeId,
    /// This store.
    pub store: NodeId,
    /// Now, by the hub's clock.
    pub now_ms: i64,
    /// Since when used tickets are remembered here, by the hub's clock: when the store started.
    pub remembered_since_ms: i64,
}

/// Which check a ticket failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Not signed by our hub, or changed since.
    #[error("the ticket's signature is not the hub's")]
    Signature,
    /// Signed, but it does not say what a ticket must.
    #[error("the ticket has no valid {0}")]
    Malformed(&'static str),
    /// For somebody else.
    #[error("the ticket is for node {expected}, but node {found} presents it")]
    Peer {
        /// By the ticket.
        expected: NodeId,
        /// By the link.
        found: NodeId,
    },
    /// For something else than is wanted.
    #[error("the ticket is for another transfer: a {direction:?} of snapshot {snapshot} of volume {volume}")]
    OtherTransfer {
        /// By the ticket.
        direction: Direction,
        /// By the ticket.
        volume: VolumeId,
        /// By the ticket.
        snapshot: SnapshotId,
    },
    /// For another store.
    #[error("the ticket is for store {expected}, this is store {found}")]
    Store {
        /// By the ticket.
        expected: NodeId,
        /// This one.
        found: NodeId,
    },
    /// Too late.
    #[error("the ticket expired {} ago by the hub's clock: ask for a new one", Seconds(*.0))]
    Expired(i64),
    /// Too early.
    #[error("the ticket is from {} in the future by the hub's clock: check the hub's clock", Seconds(*.0))]
    Future(i64),
    /// Valid for so long that its id cannot be remembered.
    #[error("the ticket is valid for {}, longer than the hour that is allowed", Seconds(*.0))]
    Lifetime(i64),
    /// Older than the memory of used tickets.
    #[error("the ticket was issued before this store started: ask for a new one")]
    BeforeStart,
    /// Presented before.
    #[error("the ticket was used already: ask for a new one")]
    Used,
    /// More tickets than can be remembered.
    #[error(
        "the store remembers {MAX_REMEMBERED} used tickets and takes no more until some expire: try again later"
    )]
    Full,
}

struct Seconds(i64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} s", self.0 / 1000, self.0 % 1000)
    }
}

/// A store's judgement over tickets. Remembers each that was used until it expires.
pub struct TicketVerifier {
    public_key: [u8; 32],
    used: Mutex<HashMap<[u8; 16], i64>>,
}

impl TicketVerifier {
    /// Believes the hub with this Ed25519 key.
    pub fn new(public_key: [u8; 32]) -> Self {
        Self { public_key, used: Mutex::default() }
    }

    /// Checks signature, peer, store, times and first use, in this order, and uses the ticket up.
    pub fn verify(&self, signed: &SignedTicket, at: &Presentation) -> Result<Grant, TicketError> {
        UnparsedPublicKey::new(&ED25519, &self.public_key)
            .verify(&[CONTEXT, &signed.payload].concat(), &signed.signature)
            .map_err(|_| TicketError::Signature)?;
        let ticket =
            Ticket::decode(signed.payload.as_slice()).map_err(|_| TicketError::Malformed("encoding"))?;
        let grant = Grant::read(&ticket)?;
        check_ends(&ticket, at)?;
        check_times(&ticket, at)?;
        self.use_up(&ticket, at.now_ms)?;
        Ok(grant)
    }

    fn use_up(&self, ticket: &Ticket, now_ms: i64) -> Result<(), TicketError> {
        let id = <[u8; 16]>::try_from(ticket.id.as_slice()).map_err(|_| TicketError::Malformed("id"))?;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.contains_key(&id) {
            return Err(TicketError::Used);
        }
        if used.len() >= MAX_REMEMBERED {
            used.retain(|_, expires_ms| *expires_ms > now_ms);
        }
        if used.len() >= MAX_REMEMBERED {
            return Err(TicketError::Full);
        }
        used.insert(id, ticket.expires_ms);
        Ok(())
    }
}

/// A ticket as text, for those who hand it on: URL-safe base64.
pub fn to_text(ticket: &SignedTicket) -> String {
    URL_SAFE_NO_PAD.encode(ticket.encode_to_vec())
}

/// Reads what [`to_text`] wrote, without judging it.
pub fn from_text(text: &str) -> Result<SignedTicket, TicketError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TicketError::Malformed("encoding"))?;
    SignedTicket::decode(bytes.as_slice()).map_err(|_| TicketError::Malformed("encoding"))
}

impl Grant {
    /// Reads a ticket without judging it: for the side that presents it.
    pub fn peek(signed: &SignedTicket) -> Result<Self, TicketError> {
        let ticket =
            Ticket::decode(signed.payload.as_slice()).map_err(|_| TicketError::Malformed("encoding"))?;
        Self::read(&ticket)
    }

    /// The same, for a ticket that must be for this transfer. One for something else would bring that under a wrong name.
    pub(crate) fn peek_for(
        signed: &SignedTicket,
        direction: Direction,
        volume: VolumeId,
        snapshot: SnapshotId,
    ) -> Result<Self, TicketError> {
        let grant = Self::peek(signed)?;
        if (grant.direction, grant.volume, grant.snapshot) == (direction, volume, snapshot) {
            return Ok(grant);
        }
        let Self { direction, volume, snapshot, .. } = grant;
        Err(TicketError::OtherTransfer { direction, volume, snapshot })
    }

    fn read(ticket: &Ticket) -> Result<Self, TicketError> {
        let malformed = |what| move |_| TicketError::Malformed(what);
        let base = match ticket.base.as_slice() {
            [] => None,
            bytes => Some(SnapshotId::from_bytes(bytes).map_err(malformed("base"))?),
        };
        let direction = ticket.direction();
        if direction == Direction::Unspecified {
            return Err(TicketError::Malformed("direction"));
        }
        Ok(Self {
            volume: VolumeId::from_bytes(&ticket.volume).map_err(malformed("volume"))?,
            snapshot: SnapshotId::from_bytes(&ticket.snapshot).map_err(malformed("snapshot"))?,
            base,
            direction,
        })
    }
}

fn check_ends(ticket: &Ticket, at: &Presentation) -> Result<(), TicketError> {
    let peer = NodeId::from_bytes(&ticket.peer).map_err(|_| TicketError::Malformed("peer"))?;
    if peer != at.peer {
        return Err(TicketError::Peer { expected: peer, found: at.peer });
    }
    let store = NodeId::from_bytes(&ticket.store).map_err(|_| TicketError::Malformed("store"))?;
    if store != at.store {
        return Err(TicketError::Store { expected: store, found: at.store });
    }
    Ok(())
}

fn check_times(ticket: &Ticket, at: &Presentation) -> Result<(), TicketError> {
    check_lifetime(ticket.issued_ms, ticket.expires_ms, at.now_ms)?;
    // Whether it was used before the memory began cannot be known.
    if ticket.issued_ms < at.remembered_since_ms {
        return Err(TicketError::BeforeStart);
    }
    Ok(())
}

/// By the hub's clock.
fn check_lifetime(issued_ms: i64, expires_ms: i64, now_ms: i64) -> Result<(), TicketError> {
    let late_ms = now_ms.saturating_sub(expires_ms);
    if late_ms >= 0 {
        return Err(TicketError::Expired(late_ms));
    }
    let early_ms = issued_ms.saturating_sub(now_ms);
    if early_ms > ISSUE_TOLERANCE_MS {
        return Err(TicketError::Future(early_ms));
    }
    let lifetime_ms = expires_ms.saturating_sub(issued_ms);
    if lifetime_ms > MAX_LIFETIME_MS {
        return Err(TicketError::Lifetime(lifetime_ms));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn node(id: u128) -> NodeId {
        NodeId(Uuid::from_u128(id))
    }

    fn at() -> Presentation {
        Presentation { peer: node(2), store: node(1), now_ms: NOW, remembered_since_ms: NOW - 50_000 }
    }

    fn ticket(id: u8) -> Ticket {
        Ticket {
            id: vec![id; 16],
            peer: node(2).to_bytes(),
            store: node(1).to_bytes(),
            volume: node(3).to_bytes(),
            snapshot: node(4).to_bytes(),
            base: Vec::new(),
            direction: Direction::Push.into(),
            issued_ms: NOW - 1_000,
            expires_ms: NOW + 60_000,
        }
    }

    fn pair() -> (TicketSigner, TicketVerifier) {
        let hub = TicketSigner::create().unwrap();
        let again = TicketSigner::from_pkcs8(hub.pkcs8()).unwrap();
        let verifier = TicketVerifier::new(hub.public_key());
        (again, verifier)
    }

    #[test]
    fn a_ticket_is_good_once() {
        let (hub, verifier) = pair();
        let signed = hub.sign(&ticket(1));
        let grant = verifier.verify(&signed, &at()).unwrap();
        assert_eq!(grant, Grant::peek(&signed).unwrap());
        assert_eq!((grant.snapshot.0, grant.base), (node(4).0, None));
        assert_eq!(verifier.verify(&signed, &at()), Err(TicketError::Used));
        assert!(verifier.verify(&hub.sign(&ticket(2)), &at()).is_ok());
    }

    #[test]
    fn each_check_says_what_failed() {
        let (hub, verifier) = pair();
        let change = |change: &dyn Fn(&mut Ticket)| {
            let mut ticket = ticket(9);
            change(&mut ticket);
            verifier.verify(&hub.sign(&ticket), &at()).unwrap_err()
        };
        assert!(matches!(change(&|t| t.peer = node(7).to_bytes()), TicketError::Peer { .. }));
        assert!(matches!(change(&|t| t.store = node(7).to_bytes()), TicketError::Store { .. }));
        assert!(matches!(
            change(&|t| t.issued_ms = NOW + 3_600_000),
            TicketError::Expired(_) | TicketError::Future(_)
        ));
        assert_eq!(change(&|t| t.expires_ms = NOW + 2 * MAX_LIFETIME_MS), TicketError::Lifetime(7_201_000));
        assert_eq!(change(&|t| t.issued_ms = NOW - 50_001), TicketError::BeforeStart);
        assert_eq!(change(&|t| t.volume = vec![1]), TicketError::Malformed("volume"));
        assert_eq!(change(&|t| t.direction = 9), TicketError::Malformed("direction"));
        assert_eq!(change(&|t| t.id = vec![]), TicketError::Malformed("id"));
        let expired = change(&|t| t.expires_ms = NOW - 12_345);
        assert_eq!(
            expired.to_string(),
            "the ticket expired 12.345 s ago by the hub's clock: ask for a new one"
        );
    }

    #[test]
    fn another_hubs_ticket_is_refused() {
        let (_, verifier) = pair();
        let (stranger, _) = pair();
        assert_eq!(verifier.verify(&stranger.sign(&ticket(1)), &at()), Err(TicketError::Signature));
    }

    #[test]
    fn the_memory_of_used_tickets_is_bounded() {
        let (hub, verifier) = pair();
        let expires_ms = NOW + 1;
        let old = (0..MAX_REMEMBERED as u128).map(|id| (id.to_be_bytes(), expires_ms));
        verifier.used.lock().unwrap().extend(old);
        assert_eq!(verifier.verify(&hub.sign(&ticket(1)), &at()), Err(TicketError::Full));
        let later = Presentation { now_ms: expires_ms, ..at() };
        assert!(verifier.verify(&hub.sign(&ticket(1)), &later).is_ok());
        assert_eq!(verifier.used.lock().unwrap().len(), 1);
    }

    proptest! {
        #[test]
        fn a_changed_bit_is_refused(bit in 0usize..1000) {
            let (hub, verifier) = pair();
            let mut signed = hub.sign(&ticket(1));
            let bits = signed.payload.len() * 8;
            if bit < bits {
                signed.payload[bit / 8] ^= 1 << (bit % 8);
            } else {
                let bit = (bit - bits) % (signed.signature.len() * 8);
                signed.signature[bit / 8] ^= 1 << (bit % 8);
            }
            prop_assert_eq!(verifier.verify(&signed, &at()), Err(TicketError::Signature));
        }
    }
}

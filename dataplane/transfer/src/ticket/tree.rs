//! Tickets for trees: permission to bring a tree to a node, or to fetch it, until it expires.
//!
//! Unlike a volume's, such a ticket is good for many streams: a tree has as many as it has snapshots. Whoever finds
//! one gains nothing by it, since it counts only on a link of the peer that it names.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use ds_domain::{TreeName, ids::NodeId};
use ds_proto::v1::{Direction, SignedTicket, TreeTicket};
use prost::Message;

use super::{Presentation, TicketError, TicketSigner, TicketVerifier, check_lifetime};

/// Keeps the two kinds of tickets apart.
const CONTEXT: &[u8] = b"dotstream tree ticket 1\0";

/// What a verified ticket for a tree allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeGrant {
    /// The tree, by its name at the host.
    pub tree: TreeName,
    /// From the peer to the host, or the other way.
    pub direction: Direction,
}

impl TicketSigner {
    /// Signs a ticket for a tree, with a lifetime of at most [`super::MAX_LIFETIME_MS`].
    pub fn sign_tree(&self, ticket: &TreeTicket) -> SignedTicket {
        let payload = ticket.encode_to_vec();
        let signature = self.pair.sign(&[CONTEXT, &payload].concat()).as_ref().to_vec();
        SignedTicket { payload, signature }
    }
}

impl TicketVerifier {
    /// Checks signature, peer, host and times, in this order.
    pub fn verify_tree(&self, signed: &SignedTicket, at: &Presentation) -> Result<TreeGrant, TicketError> {
        UnparsedPublicKey::new(&ED25519, &self.public_key)
            .verify(&[CONTEXT, &signed.payload].concat(), &signed.signature)
            .map_err(|_| TicketError::Signature)?;
        let ticket =
            TreeTicket::decode(signed.payload.as_slice()).map_err(|_| TicketError::Malformed("encoding"))?;
        let direction = ticket.direction();
        if direction == Direction::Unspecified {
            return Err(TicketError::Malformed("direction"));
        }
        let tree = ticket.tree.parse().map_err(|_| TicketError::Malformed("tree"))?;
        let node = |bytes, what| NodeId::from_bytes(bytes).map_err(|_| TicketError::Malformed(what));
        let (peer, host) = (node(&ticket.peer, "peer")?, node(&ticket.host, "host")?);
        if peer != at.peer {
            return Err(TicketError::Peer { expected: peer, found: at.peer });
        }
        if host != at.store {
            return Err(TicketError::Store { expected: host, found: at.store });
        }
        check_lifetime(ticket.issued_ms, ticket.expires_ms, at.now_ms)?;
        Ok(TreeGrant { tree, direction })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn node(id: u128) -> NodeId {
        NodeId(Uuid::from_u128(id))
    }

    fn at() -> Presentation {
        Presentation { peer: node(2), store: node(1), now_ms: NOW, remembered_since_ms: NOW }
    }

    fn ticket() -> TreeTicket {
        TreeTicket {
            peer: node(2).to_bytes(),
            host: node(1).to_bytes(),
            tree: "photos".into(),
            direction: Direction::Push.into(),
            issued_ms: NOW - 1_000,
            expires_ms: NOW + 60_000,
        }
    }

    #[test]
    fn a_trees_ticket_is_good_until_it_expires() {
        let hub = TicketSigner::create().unwrap();
        let verifier = TicketVerifier::new(hub.public_key());
        let signed = hub.sign_tree(&ticket());
        for _ in 0..3 {
            let grant = verifier.verify_tree(&signed, &at()).unwrap();
            assert_eq!((grant.tree.as_str(), grant.direction), ("photos", Direction::Push));
        }
        let later = Presentation { now_ms: NOW + 60_000, ..at() };
        assert_eq!(verifier.verify_tree(&signed, &later), Err(TicketError::Expired(0)));
    }

    #[test]
    fn each_check_says_what_failed_and_no_kind_is_taken_for_the_other() {
        let hub = TicketSigner::create().unwrap();
        let verifier = TicketVerifier::new(hub.public_key());
        let change = |change: &dyn Fn(&mut TreeTicket)| {
            let mut ticket = ticket();
            change(&mut ticket);
            verifier.verify_tree(&hub.sign_tree(&ticket), &at()).unwrap_err()
        };
        assert!(matches!(change(&|t| t.peer = node(7).to_bytes()), TicketError::Peer { .. }));
        assert!(matches!(change(&|t| t.host = node(7).to_bytes()), TicketError::Store { .. }));
        assert_eq!(change(&|t| t.tree = "../x".into()), TicketError::Malformed("tree"));
        assert_eq!(change(&|t| t.direction = 0), TicketError::Malformed("direction"));
        assert!(matches!(change(&|t| t.issued_ms = NOW + 20_000), TicketError::Future(_)));
        assert!(matches!(change(&|t| t.expires_ms = NOW + 4_000_000), TicketError::Lifetime(_)));
        let mut changed = hub.sign_tree(&ticket());
        *changed.payload.last_mut().unwrap() ^= 1;
        assert_eq!(verifier.verify_tree(&changed, &at()), Err(TicketError::Signature));
        let other = hub.sign(&ds_proto::v1::Ticket::default());
        assert_eq!(verifier.verify_tree(&other, &at()), Err(TicketError::Signature));
        assert_eq!(verifier.verify(&hub.sign_tree(&ticket()), &at()), Err(TicketError::Signature));
    }
}

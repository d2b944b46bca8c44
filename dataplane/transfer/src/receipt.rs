//! Receipts: a store's signed word that it has a snapshot, which the hub believes whoever hands it over.

use ds_domain::ids::NodeId;
use ds_link::{Identity, Role, Trust};
use ds_proto::v1::{Receipt, SignedReceipt};
use prost::Message;

/// Keeps a receipt's signature from being taken for one over something else.
const CONTEXT: &[u8] = b"dotstream receipt 1\0";

/// Why a receipt is not believed.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// Its certificate is not from our CA, or the signature not from its key.
    #[error("the receipt is not signed by a node of this hub")]
    Signature(#[source] ds_link::Error),
    /// Signed by a node that is no store, or not the store that it names.
    #[error("the receipt is signed by {0}, which is not the store that it names")]
    NotTheStore(ds_link::Peer),
    /// Signed, but it does not decode.
    #[error("the receipt does not decode")]
    Malformed(#[from] prost::DecodeError),
}

/// Signs a receipt with a store's key.
pub fn sign(identity: &Identity, receipt: &Receipt) -> Result<SignedReceipt, ds_link::Error> {
    let payload = receipt.encode_to_vec();
    let signature = identity.sign(&[CONTEXT, &payload].concat())?;
    Ok(SignedReceipt { payload, signature, certificate: identity.certificate_der().to_vec() })
}

/// A receipt that nobody signed, from a node that is no store.
pub(crate) fn unsigned(receipt: &Receipt) -> SignedReceipt {
    SignedReceipt { payload: receipt.encode_to_vec(), ..SignedReceipt::default() }
}

/// Verifies certificate, role and signature against the hub's CA. Returns the store and what it says.
pub fn verify(ca_pem: &str, signed: &SignedReceipt) -> Result<(NodeId, Receipt), ReceiptError> {
    let trust = Trust::from_ca_pem(ca_pem).map_err(ReceiptError::Signature)?;
    let message = [CONTEXT, &signed.payload].concat();
    let peer =
        trust.verify(&signed.certificate, &message, &signed.signature).map_err(ReceiptError::Signature)?;
    let receipt = Receipt::decode(signed.payload.as_slice())?;
    if peer.role != Role::Store || receipt.store != peer.node.to_bytes() {
        return Err(ReceiptError::NotTheStore(peer));
    }
    Ok((peer.node, receipt))
}

#[cfg(test)]
mod tests {
    use ds_link::Ca;
    use uuid::Uuid;

    use super::*;

    fn node(id: u128) -> NodeId {
        NodeId(Uuid::from_u128(id))
    }

    #[test]
    fn only_the_named_stores_own_signature_counts() {
        let (ca, other) = (Ca::create().unwrap(), Ca::create().unwrap());
        let store = ca.issue(Role::Store, node(1)).unwrap();
        let receipt = Receipt { store: node(1).to_bytes(), guid: 7, ..Receipt::default() };
        let good = sign(&store, &receipt).unwrap();
        assert_eq!(verify(ca.certificate_pem(), &good).unwrap(), (node(1), receipt.clone()));
        assert!(matches!(verify(other.certificate_pem(), &good), Err(ReceiptError::Signature(_))));

        let mut changed = good.clone();
        changed.payload = Receipt { guid: 8, ..receipt.clone() }.encode_to_vec();
        assert!(matches!(verify(ca.certificate_pem(), &changed), Err(ReceiptError::Signature(_))));
        assert!(verify(ca.certificate_pem(), &unsigned(&receipt)).is_err());

        let runner = ca.issue(Role::Runner, node(1)).unwrap();
        let posing = sign(&runner, &receipt).unwrap();
        assert!(matches!(verify(ca.certificate_pem(), &posing), Err(ReceiptError::NotTheStore(_))));
        let another = ca.issue(Role::Store, node(2)).unwrap();
        let posing = sign(&another, &receipt).unwrap();
        assert!(matches!(verify(ca.certificate_pem(), &posing), Err(ReceiptError::NotTheStore(_))));
    }
}

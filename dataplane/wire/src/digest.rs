use std::fmt;

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest::{Context, SHA256},
};

use crate::TransferId;

/// The digest of a chunk: GMAC (AES-128-GCM's authentication without its encryption) under a key of the transfer.
///
/// It is a function of transfer, index and payload, so that equal digests in one transfer mean equal chunks, whatever
/// whoever made the data tried: they do not know the key, which both ends take from the [`TransferId`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 16]);

/// Makes the digests of one transfer's chunks. Each end has one and shares it between its lanes.
pub struct Digester(LessSafeKey);

impl Digester {
    /// For the chunks of `transfer`.
    pub fn new(transfer: TransferId) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(b"dotstream ds-data/1 chunk digest\0");
        context.update(&transfer.0);
        let key = UnboundKey::new(&AES_128_GCM, &context.finish().as_ref()[..16]);
        Self(LessSafeKey::new(key.expect("AES-128 takes 16 bytes")))
    }

    /// The digest of the payload of chunk `index`.
    pub fn of(&self, index: u64, payload: &[u8]) -> Digest {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&index.to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(payload), &mut []);
        // GCM authenticates up to 2^61 bytes.
        let tag = tag.expect("a chunk is far shorter than what GCM takes");
        Digest(tag.as_ref().try_into().expect("a tag of GCM has 16 bytes"))
    }
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digester")
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// The digest of a stream: SHA-256 over the digests of its chunks in order, the first half of it.
///
/// It binds which chunks there are, their order and their number. That is what the neighbours leave open:
/// - The encryption of a link protects the bytes of one connection between two sockets. It says nothing about the order
///   of chunks, which travel as separate streams and over several connections, about a stream that ends too early, or
///   about memory and code before encryption and after decryption: a buffer used again too soon, a chunk resent from the
///   wrong place.
/// - The checksum in a ZFS stream (Fletcher-4) finds accidents, not intent, and is judged by `zfs receive` at the end of
///   a record or of the whole stream; it cannot name the chunk that was damaged, and not every stream has one per record.
///
/// Both ends also keep the result in the transfer's receipt.
#[derive(Clone)]
pub struct StreamDigest(Context);

impl StreamDigest {
    /// The digest of no chunk.
    pub fn new() -> Self {
        let mut context = Context::new(&SHA256);
        context.update(b"dotstream ds-data/1 stream digest over chunk digests\0");
        Self(context)
    }

    /// Adds the next chunk.
    pub fn add(&mut self, chunk: &Digest) {
        self.0.update(&chunk.0);
    }

    /// The digest of the chunks so far.
    pub fn value(&self) -> Digest {
        let whole = self.0.clone().finish();
        Digest(whole.as_ref()[..16].try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Debug for StreamDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamDigest({})", self.value())
    }
}

impl Default for StreamDigest {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSFER: TransferId = TransferId([5; 16]);

    fn over(chunks: &[&'static [u8]]) -> Digest {
        let (digester, mut digest) = (Digester::new(TRANSFER), StreamDigest::new());
        for (index, chunk) in (0..).zip(chunks) {
            digest.add(&digester.of(index, chunk));
        }
        digest.value()
    }

    #[test]
    fn order_number_and_borders_are_bound() {
        assert_ne!(over(&[b"a", b"b"]), over(&[b"b", b"a"]));
        assert_ne!(over(&[b"a"]), over(&[b"a", b"a"]));
        assert_ne!(over(&[b"ab"]), over(&[b"a", b"b"]));
        assert_ne!(over(&[]), over(&[b""]));
    }

    #[test]
    fn transfer_and_place_are_bound() {
        let payload = b"payload";
        let digester = Digester::new(TRANSFER);
        assert_eq!(digester.of(1, payload), digester.of(1, payload));
        assert_ne!(digester.of(1, payload), digester.of(2, payload));
        assert_ne!(digester.of(1, payload), Digester::new(TransferId([6; 16])).of(1, payload));
    }

    #[test]
    fn the_value_is_part_of_the_protocol() {
        // Computed once; nodes of different versions must agree on it.
        assert_eq!(over(&[b"dot", b"stream"]).to_string(), "d57e71e0b13eba000412824c3e57b49e");
    }
}

use std::fmt;

use bytes::Bytes;

/// A BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of a chunk's payload.
    pub fn of(payload: &Bytes) -> Self {
        Self(*blake3::hash(payload).as_bytes())
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

/// The digest of a stream: BLAKE3, under a key of its own, over the digests of its chunks in order.
///
/// It binds which chunks there are, their order and their number. That is what the neighbours leave open:
/// - The encryption of a link protects the bytes of one connection between two sockets. It says nothing about the order
///   of chunks, which travel as separate streams and over several connections, about a stream that ends too early, or
///   about memory and code before encryption and after decryption: a buffer used again too soon, a chunk resent from the
///   wrong place.
/// - The checksum in a ZFS stream (Fletcher-4) finds accidents, not intent, and is judged by `zfs receive` at the end of
///   a record or of the whole stream; it cannot name the chunk that was damaged, and not every stream has one per record.
///
/// Both nodes also keep the result in the transfer's receipt, so that two copies can be compared later.
#[derive(Debug, Clone)]
pub struct StreamDigest(blake3::Hasher);

impl StreamDigest {
    /// The digest of no chunk.
    pub fn new() -> Self {
        Self(blake3::Hasher::new_derive_key("dotstream ds-data/1 stream digest over chunk digests"))
    }

    /// Adds the next chunk.
    pub fn add(&mut self, chunk: &Digest) {
        self.0.update(&chunk.0);
    }

    /// The digest of the chunks so far.
    pub fn value(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
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

    fn over(chunks: &[&'static [u8]]) -> Digest {
        let mut digest = StreamDigest::new();
        for chunk in chunks {
            digest.add(&Digest::of(&Bytes::from_static(chunk)));
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
    fn the_value_is_part_of_the_protocol() {
        // Computed once; nodes of different versions must agree on it.
        assert_eq!(
            over(&[b"dot", b"stream"]).to_string(),
            "e905ea3d2efa16cc7c7c96b4ce4ae55bfba9b8bfeca3b7829b12eb2aeb92cad6"
        );
    }
}

use bytes::Bytes;

use crate::{Digest, Digester, Error, FULL_CHUNK, TransferId};

/// The length of an encoded [`ChunkHeader`].
pub const HEADER_BYTES: usize = 61;

/// "DSC" and the version of the encoding.
const MAGIC: [u8; 4] = *b"DSC\x03";
/// Among the flags: how the payload travels.
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
const SPOOLED: u8 = 2;

/// What stands in front of each chunk's payload.
///
/// Encoded in [`HEADER_BYTES`] bytes, integers big endian:
///
/// | at | length | what |
/// | --- | --- | --- |
/// | 0 | 4 | `DSC` and version 3 |
/// | 4 | 16 | transfer |
/// | 20 | 8 | index of the chunk, from 0 |
/// | 28 | 8 | offset of its first byte in the stream |
/// | 36 | 4 | length of the payload: 1 to [`CHUNK_BYTES`](crate::CHUNK_BYTES) |
/// | 40 | 1 | how it travels: 0 as it is, 1 as one frame of zstd, 2 not at all; anything else is refused |
/// | 41 | 16 | [`Digest`] of the payload, as it is |
/// | 57 | 4 | length of what travels: that of the payload, or of the frame, which is shorter, or 0 |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// The transfer that the chunk belongs to.
    pub transfer: TransferId,
    /// The chunk's place in the stream.
    pub index: u64,
    /// The place of its first byte in the stream.
    pub offset: u64,
    /// The length of its payload in bytes.
    pub length: u32,
    /// The digest of its payload.
    pub digest: Digest,
    /// What travels in the payload's place.
    pub form: Form,
}

/// How a payload travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// As one frame of zstd with so many bytes, fewer than its own.
    Zstd(u32),
    /// Not at all: the receiver has it in its spool.
    Spooled,
}

impl ChunkHeader {
    /// The header as it goes over the wire.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..20].copy_from_slice(&self.transfer.0);
        bytes[20..28].copy_from_slice(&self.index.to_be_bytes());
        bytes[28..36].copy_from_slice(&self.offset.to_be_bytes());
        bytes[36..40].copy_from_slice(&self.length.to_be_bytes());
        let (form, travels) = match self.form {
            Form::Plain => (PLAIN, self.length),
            Form::Zstd(bytes) => (ZSTD, bytes),
            Form::Spooled => (SPOOLED, 0),
        };
        bytes[40] = form;
        bytes[41..57].copy_from_slice(&self.digest.0);
        bytes[57..].copy_from_slice(&travels.to_be_bytes());
        bytes
    }

    /// Reads what [`ChunkHeader::encode`] wrote.
    ///
    /// The length is bounded here, so a caller may allocate it. Whether the chunk fits the stream is for
    /// [`Receiver::check`](crate::Receiver::check) to say.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Error> {
        let magic = field(bytes, 0);
        if magic != MAGIC {
            return Err(Error::Magic { found: magic });
        }
        let length = u32::from_be_bytes(field(bytes, 36));
        if length == 0 || u64::from(length) > FULL_CHUNK {
            return Err(Error::Length { length: length.into(), most: FULL_CHUNK });
        }
        let travels = u32::from_be_bytes(field(bytes, 57));
        let form = match bytes[40] {
            PLAIN if travels == length => Form::Plain,
            ZSTD if (1..length).contains(&travels) => Form::Zstd(travels),
            SPOOLED if travels == 0 => Form::Spooled,
            PLAIN | ZSTD | SPOOLED => return Err(Error::Travels { length, travels }),
            unknown => return Err(Error::Flags(unknown)),
        };
        let index = u64::from_be_bytes(field(bytes, 20));
        let offset = u64::from_be_bytes(field(bytes, 28));
        if offset.checked_add(length.into()).is_none() {
            return Err(Error::Offset { index, offset });
        }
        Ok(Self {
            transfer: TransferId(field(bytes, 4)),
            index,
            offset,
            length,
            digest: Digest(field(bytes, 41)),
            form,
        })
    }

    /// The place in the stream after its last byte.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length.into())
    }
}

fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes by construction")
}

/// A chunk whose payload is what its header says.
///
/// Only made by a [`Sender`](crate::Sender), or by [`Chunk::verify`] from what arrived. Hashing is the costly part of
/// receiving, and needs no [`Receiver`](crate::Receiver): each lane can do it on its own thread.
#[derive(Debug, Clone)]
pub struct Chunk {
    header: ChunkHeader,
    payload: Bytes,
}

impl Chunk {
    /// Digests a payload that is about to be sent. The caller keeps it within one chunk.
    pub(crate) fn seal(
        transfer: TransferId,
        digester: &Digester,
        index: u64,
        offset: u64,
        payload: Bytes,
    ) -> Self {
        let length = u32::try_from(payload.len()).expect("a chunk is at most CHUNK_BYTES long");
        let digest = digester.of(index, &payload);
        Self { header: ChunkHeader { transfer, index, offset, length, digest, form: Form::Plain }, payload }
    }

    /// Checks a payload that arrived against its header: length, then digest.
    pub fn verify(header: ChunkHeader, payload: Bytes, digester: &Digester) -> Result<Self, Error> {
        let (index, expected, found) = (header.index, u64::from(header.length), payload.len() as u64);
        if expected != found {
            return Err(Error::Truncated { index, expected, found });
        }
        let found = digester.of(index, &payload);
        if found != header.digest {
            return Err(Error::Corrupt { index, expected: header.digest, found });
        }
        Ok(Self { header, payload })
    }

    /// What goes in front of the payload.
    pub fn header(&self) -> &ChunkHeader {
        &self.header
    }

    /// The bytes themselves.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Lets go of the header.
    pub fn into_payload(self) -> Bytes {
        self.payload
    }
}

#[cfg(test)]
mod tests {
    use proptest::{array::uniform16, prelude::*};

    use super::*;

    fn bytes_of_a_header() -> [u8; HEADER_BYTES] {
        let transfer = TransferId([7; 16]);
        let payload = Bytes::from_static(b"payload");
        Chunk::seal(transfer, &Digester::new(transfer), 3, 3 * FULL_CHUNK, payload).header().encode()
    }

    #[test]
    fn the_layout_is_fixed() {
        let header = ChunkHeader {
            transfer: TransferId([0xab; 16]),
            index: 1,
            offset: 2,
            length: 3,
            digest: Digest([0xcd; 16]),
            form: Form::Zstd(2),
        };
        let mut expected = b"DSC\x03".to_vec();
        expected.extend([0xab; 16]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 1]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 2]);
        expected.extend([0, 0, 0, 3, 1]);
        expected.extend([0xcd; 16]);
        expected.extend([0, 0, 0, 2]);
        assert_eq!(header.encode().as_slice(), expected);
    }

    #[test]
    fn what_no_sender_writes_is_refused() {
        let with = |at: usize, value: &[u8]| {
            let mut bytes = bytes_of_a_header();
            bytes[at..at + value.len()].copy_from_slice(value);
            ChunkHeader::decode(&bytes)
        };
        assert!(matches!(with(0, b"HTTP"), Err(Error::Magic { .. })));
        assert!(matches!(with(3, &[1]), Err(Error::Magic { .. })), "another version");
        assert_eq!(with(40, &[3]), Err(Error::Flags(3)));
        assert_eq!(with(40, &[0x80]), Err(Error::Flags(0x80)));
        assert!(matches!(with(40, &[1]), Err(Error::Travels { .. })), "a frame no shorter than the payload");
        assert!(matches!(with(57, &[0; 4]), Err(Error::Travels { .. })));
        assert!(matches!(with(36, &[0; 4]), Err(Error::Length { length: 0, .. })));
        assert!(matches!(with(36, &0x0010_0001_u32.to_be_bytes()), Err(Error::Length { .. })));
        let full = ChunkHeader { length: 0x0010_0000, ..ChunkHeader::decode(&bytes_of_a_header()).unwrap() };
        assert_eq!(ChunkHeader::decode(&full.encode()), Ok(full), "a full chunk");
        assert!(matches!(with(28, &[0xff; 8]), Err(Error::Offset { .. })));
    }

    #[test]
    fn a_payload_that_changed_is_refused() {
        let header = ChunkHeader::decode(&bytes_of_a_header()).unwrap();
        let digester = Digester::new(header.transfer);
        assert!(Chunk::verify(header, Bytes::from_static(b"payload"), &digester).is_ok());
        assert!(matches!(
            Chunk::verify(header, Bytes::from_static(b"pay1oad"), &digester),
            Err(Error::Corrupt { index: 3, .. })
        ));
        assert!(matches!(
            Chunk::verify(header, Bytes::from_static(b"payloa"), &digester),
            Err(Error::Truncated { expected: 7, found: 6, .. })
        ));
    }

    proptest! {
        #[test]
        fn headers_round_trip(
            transfer in any::<[u8; 16]>(),
            index in any::<u64>(),
            offset in 0..u64::MAX - FULL_CHUNK,
            length in 1..=0x0010_0000_u32,
            digest in uniform16(any::<u8>()),
            form in 0..3_u32,
        ) {
            let (transfer, digest) = (TransferId(transfer), Digest(digest));
            let form = match form {
                1 if length > 1 => Form::Zstd(length / 2),
                2 => Form::Spooled,
                _ => Form::Plain,
            };
            let header = ChunkHeader { transfer, index, offset, length, digest, form };
            prop_assert_eq!(ChunkHeader::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(mut bytes in prop::collection::vec(any::<u8>(), HEADER_BYTES), ours: bool) {
            if ours {
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[40] &= 3;
                bytes[36] = 0;
                bytes[57] = 0;
            }
            let bytes: [u8; HEADER_BYTES] = bytes.try_into().unwrap();
            if let Ok(header) = ChunkHeader::decode(&bytes) {
                prop_assert!(u64::from(header.length) <= FULL_CHUNK);
                prop_assert!(header.end() > header.offset);
                prop_assert_eq!(header.encode(), bytes, "one encoding for each header");
            }
        }

        #[test]
        fn a_flipped_bit_is_seen(bit in 0..HEADER_BYTES * 8) {
            let original = bytes_of_a_header();
            let mut bytes = original;
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(header) = ChunkHeader::decode(&bytes) {
                prop_assert_ne!(Ok(header), ChunkHeader::decode(&original));
            }
        }
    }
}

//! TLS 1.3's record layer (RFC 8446, section 5) for the bulk of a lane: from a chunk straight into the socket's buffer
//! and back, each byte touched once. Rustls shakes hands and hands the keys over; its own record layer copies each byte
//! twice more.
//!
//! Pure: no sockets. One suite, AES-128-GCM, which is the only one that [`crate::tls`] offers over TCP. A key is used for
//! [`MOST_RECORDS`] and not updated: a lane that has used it up is replaced.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

/// The most content of one record.
pub(super) const CONTENT_BYTES: usize = 16 << 10;
/// A record is longer than its content: header, content type, tag.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + 1 + TAG_BYTES;
/// The longest record.
pub(super) const RECORD_BYTES: usize = CONTENT_BYTES + OVERHEAD_BYTES;
/// Below the 2^24.5 full records that one key of AES-GCM may protect (RFC 8446, section 5.5).
pub(super) const MOST_RECORDS: u64 = 1 << 24;

const HEADER_BYTES: usize = 5;
const TAG_BYTES: usize = 16;
const ALERT: u8 = 21;
const APPLICATION_DATA: u8 = 23;
/// A warning, `close_notify`.
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// A record that cannot be read, or a stream that is not one of records.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum RecordError {
    /// Its header is not one of TLS 1.3's encrypted records, or says an impossible length.
    #[error("what arrives is no TLS record")]
    Header,
    /// It is damaged, not the next, or not the other end's.
    #[error("a TLS record does not decrypt")]
    Tag,
    /// Its content is longer than what is expected here.
    #[error("a TLS record is longer than its place")]
    Long,
    /// An alert, or what belongs into a handshake.
    #[error("the other end sent TLS content of type {0}")]
    Content(u8),
    /// The keys are not those of the one suite.
    #[error("the TLS session has another cipher than AES-128-GCM")]
    Suite,
}

/// The keys of one direction, and how many records they have protected.
struct Keys {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Keys {
    fn from_secrets((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, RecordError> {
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { return Err(RecordError::Suite) };
        let key = key.as_ref().try_into().map_err(|_| RecordError::Suite)?;
        let iv = iv.as_ref().try_into().map_err(|_| RecordError::Suite)?;
        Ok(Self::new(sequence, key, iv))
    }

    fn new(sequence: u64, key: &[u8; 16], iv: [u8; 12]) -> Self {
        let key = UnboundKey::new(&AES_128_GCM, key).expect("AES-128 takes 16 bytes");
        Self { key: LessSafeKey::new(key), iv, sequence }
    }

    /// The sequence number, padded on the left, xor the IV (RFC 8446, section 5.3).
    fn next_nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        let sequence = self.sequence.to_be_bytes();
        nonce[4..].iter_mut().zip(sequence).for_each(|(byte, of_sequence)| *byte ^= of_sequence);
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Makes records.
pub(super) struct Sealer(Keys);

impl Sealer {
    /// With what rustls gives as the keys of the outgoing direction.
    pub(super) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, RecordError> {
        Keys::from_secrets(secrets).map(Self)
    }

    /// Whether the keys have protected as much as they may.
    pub(super) fn is_spent(&self) -> bool {
        self.0.sequence >= MOST_RECORDS
    }

    /// Writes `content`, at most [`CONTENT_BYTES`], as one record to the beginning of `out`, and says how long it is.
    pub(super) fn seal(&mut self, content: &[u8], out: &mut [u8]) -> usize {
        self.record(APPLICATION_DATA, content, out)
    }

    /// Writes the record that ends this direction.
    pub(super) fn close(&mut self, out: &mut [u8]) -> usize {
        self.record(ALERT, &CLOSE_NOTIFY, out)
    }

    fn record(&mut self, kind: u8, content: &[u8], out: &mut [u8]) -> usize {
        let length = content.len() + OVERHEAD_BYTES;
        let (header, body) = out[..length].split_at_mut(HEADER_BYTES);
        let announced = u16::try_from(body.len()).expect("a record's content is at most 16 KiB");
        header.copy_from_slice(&[APPLICATION_DATA, 3, 3, 0, 0]);
        header[3..].copy_from_slice(&announced.to_be_bytes());
        let (encrypted, tail) = body.split_at_mut(content.len());
        let nonce = self.0.next_nonce();
        let sealed =
            self.0.key.seal_out_of_place_scatter(nonce, Aad::from(header), content, encrypted, &[kind], tail);
        sealed.expect("the lengths fit, and GCM takes far longer ones");
        length
    }
}

/// Reads records.
pub(super) struct Opener {
    keys: Keys,
    /// For records that do not fit their place with the byte of their type behind them.
    spare: Box<[u8]>,
}

/// What a record brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// So many bytes of content.
    Content(usize),
    /// The other end will send no more.
    End,
}

/// The length of the record at the beginning of `bytes`; `None` where there is not enough of it to say.
pub(super) fn record_bytes(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let Some(&[kind, major, _, high, low]) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if kind != APPLICATION_DATA || major != 3 || !(OVERHEAD_BYTES..=RECORD_BYTES).contains(&length) {
        return Err(RecordError::Header);
    }
    Ok(Some(length))
}

impl Opener {
    /// With what rustls gives as the keys of the incoming direction.
    pub(super) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, RecordError> {
        Ok(Self { keys: Keys::from_secrets(secrets)?, spare: vec![0; CONTENT_BYTES + 1].into() })
    }

    /// Decrypts `record`, which is whole, into the beginning of `out`. What stands behind its content in `out` may change.
    pub(super) fn open(&mut self, record: &[u8], out: &mut [u8]) -> Result<Opened, RecordError> {
        let (header, body) = record.split_at_checked(HEADER_BYTES).ok_or(RecordError::Header)?;
        let (encrypted, tag) =
            body.split_at_checked(body.len().saturating_sub(TAG_BYTES)).ok_or(RecordError::Header)?;
        let content = encrypted.len().checked_sub(1).ok_or(RecordError::Header)?;
        let nonce = self.keys.next_nonce();
        let spare = encrypted.len() > out.len();
        let to = if spare { &mut self.spare[..] } else { &mut *out };
        let to = to.get_mut(..encrypted.len()).ok_or(RecordError::Long)?;
        let opened = self.keys.key.open_separate_gather(nonce, Aad::from(header), encrypted, tag, to);
        opened.map_err(|_| RecordError::Tag)?;
        match to[content] {
            APPLICATION_DATA => {}
            ALERT if to[..content] == CLOSE_NOTIFY => return Ok(Opened::End),
            other => return Err(RecordError::Content(other)),
        }
        if spare {
            out.get_mut(..content).ok_or(RecordError::Long)?.copy_from_slice(&self.spare[..content]);
        }
        Ok(Opened::Content(content))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        sync::Arc,
    };

    use ds_domain::NodeId;
    use proptest::prelude::*;
    use rustls::{ClientConnection, ExtractedSecrets, ServerConnection};
    use uuid::Uuid;

    use super::*;
    use crate::{Ca, Peer, Role, tls};

    fn pair(sequence: u64) -> (Sealer, Opener) {
        let keys = || Keys::new(sequence, &[7; 16], [9; 12]);
        (Sealer(keys()), Opener { keys: keys(), spare: vec![0; CONTENT_BYTES + 1].into() })
    }

    proptest! {
        #[test]
        fn content_comes_out_as_it_went_in(
            lengths in prop::collection::vec(0..=CONTENT_BYTES, 1..6),
            sequence in 0..MOST_RECORDS,
            slack in 0..2usize,
        ) {
            let (mut sealer, mut opener) = pair(sequence);
            for (fill, length) in (1u8..).zip(lengths) {
                let content = vec![fill; length];
                let mut record = vec![0; RECORD_BYTES];
                let sealed = sealer.seal(&content, &mut record);
                prop_assert_eq!(record_bytes(&record), Ok(Some(sealed)));
                let mut out = vec![0; length + slack];
                prop_assert_eq!(opener.open(&record[..sealed], &mut out), Ok(Opened::Content(length)));
                prop_assert_eq!(&out[..length], content);
            }
        }

        #[test]
        fn foreign_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (_, mut opener) = pair(0);
            prop_assert!(opener.open(&bytes, &mut [0; 300]).is_err());
            if let Ok(Some(length)) = record_bytes(&bytes) {
                prop_assert!(length <= RECORD_BYTES);
            }
        }
    }

    #[test]
    fn a_record_that_is_damaged_repeated_or_missing_is_seen() {
        let mut record = vec![0; RECORD_BYTES];
        let (mut sealer, mut opener) = pair(0);
        let length = sealer.seal(b"content", &mut record);
        for byte in 0..length {
            let (_, mut opener) = pair(0);
            let mut damaged = record[..length].to_vec();
            damaged[byte] ^= 1;
            assert!(opener.open(&damaged, &mut [0; 64]).is_err(), "byte {byte}");
        }
        assert_eq!(opener.open(&record[..length], &mut [0; 64]), Ok(Opened::Content(7)));
        assert_eq!(opener.open(&record[..length], &mut [0; 64]), Err(RecordError::Tag), "repeated");
        sealer.seal(b"lost", &mut record);
        let length = sealer.seal(b"next but one", &mut record);
        let (_, mut opener) = pair(1);
        assert_eq!(opener.open(&record[..length], &mut [0; 64]), Err(RecordError::Tag), "one is missing");
    }

    /// Both ends of a session, shaken hands.
    fn session() -> (ClientConnection, ServerConnection) {
        let ca = Ca::create().unwrap();
        let [store, runner] = [(Role::Store, 1), (Role::Runner, 2)]
            .map(|(role, id)| ca.issue(role, NodeId(Uuid::from_u128(id))).unwrap());
        let name = Peer::dns_name(store.peer().node).try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(tls::client(&runner).unwrap()), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(tls::server(&store).unwrap())).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut flight = Vec::new();
            client.write_tls(&mut flight).unwrap();
            server.read_tls(&mut flight.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            flight.clear();
            server.write_tls(&mut flight).unwrap();
            client.read_tls(&mut flight.as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
        (client, server)
    }

    #[test]
    fn the_records_are_those_of_tls() {
        let (mut client, server) = session();
        let ExtractedSecrets { tx, rx } = server.dangerous_extract_secrets().unwrap();
        let (mut sealer, mut opener) = (Sealer::new(tx).unwrap(), Opener::new(rx).unwrap());

        let mut record = vec![0; RECORD_BYTES];
        let mut read = [0; 64];
        for content in [b"ours".as_slice(), b"ours again"] {
            let length = sealer.seal(content, &mut record);
            client.read_tls(&mut &record[..length]).unwrap();
            client.process_new_packets().unwrap();
            let length = client.reader().read(&mut read).unwrap();
            assert_eq!(&read[..length], content);
        }
        client.writer().write_all(b"rustls's").unwrap();
        let mut theirs = Vec::new();
        client.write_tls(&mut theirs).unwrap();
        assert_eq!(opener.open(&theirs, &mut read), Ok(Opened::Content(8)));
        assert_eq!(&read[..8], b"rustls's");

        let length = sealer.close(&mut record);
        client.read_tls(&mut &record[..length]).unwrap();
        assert!(client.process_new_packets().unwrap().peer_has_closed());
    }

    #[test]
    fn an_end_is_no_content_and_what_is_too_long_is_refused() {
        let (mut sealer, mut opener) = pair(0);
        let mut record = vec![0; RECORD_BYTES];
        let length = sealer.seal(b"12345678", &mut record);
        assert_eq!(opener.open(&record[..length], &mut [0; 7]), Err(RecordError::Long));
        let length = sealer.close(&mut record);
        assert_eq!(opener.open(&record[..length], &mut [0; 64]), Ok(Opened::End));
        let (mut sealer, _) = pair(MOST_RECORDS - 1);
        assert!(!sealer.is_spent());
        sealer.seal(b"the last", &mut record);
        assert!(sealer.is_spent());
    }
}

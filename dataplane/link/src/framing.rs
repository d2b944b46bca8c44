//! Control messages on a stream: a length (u32, big endian), then as many bytes of protobuf. At most 1 MiB. Between two
//! messages there may be signs of life ([`SIGN_OF_LIFE`]), which say nothing else.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// The longest message, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

const LENGTH_BYTES: usize = 4;

/// Stands where a length would, and nothing belongs to it. No length of 0: that is a message with nothing set.
pub(crate) const SIGN_OF_LIFE: [u8; LENGTH_BYTES] = [u8::MAX; LENGTH_BYTES];

/// Bytes that are no control message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The announced length is over the limit; nothing was allocated for it.
    #[error("a message of {0} bytes was announced, the limit is {MAX_MESSAGE_BYTES}")]
    TooLong(usize),
    /// The stream ended within a message.
    #[error("the stream ended within a message")]
    Cut,
    /// A chunk does not end where its header says.
    #[error("a chunk is longer than its header says")]
    Long,
    /// The bytes are not the expected protobuf message.
    #[error("the message does not decode: {0}")]
    Decode(#[from] prost::DecodeError),
}

/// A message with its length before it.
pub fn encode(message: &impl Message) -> Result<Bytes, FrameError> {
    let length = message.encoded_len();
    if length > MAX_MESSAGE_BYTES {
        return Err(FrameError::TooLong(length));
    }
    let mut frame = BytesMut::with_capacity(LENGTH_BYTES + length);
    frame.put_u32(u32::try_from(length).expect("below the limit"));
    message.encode(&mut frame).expect("room for encoded_len bytes");
    Ok(frame.freeze())
}

/// Takes the first message off `buffer`, and signs of life before it; `None` if more bytes are needed.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
    while buffer.starts_with(&SIGN_OF_LIFE) {
        buffer.advance(LENGTH_BYTES);
    }
    let Some(head) = buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes(*head) as usize;
    if length > MAX_MESSAGE_BYTES {
        return Err(FrameError::TooLong(length));
    }
    if buffer.len() < LENGTH_BYTES + length {
        return Ok(None);
    }
    buffer.advance(LENGTH_BYTES);
    Ok(Some(buffer.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use ds_proto::v1::Abort;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_they_are_cut(
            texts in proptest::collection::vec(".{0,40}", 0..8),
            signs_of_life in 0usize..3,
            step in 1usize..30,
        ) {
            let messages: Vec<_> = texts.into_iter().map(|message| Abort { code: 3, message }).collect();
            let mut sent = SIGN_OF_LIFE.repeat(signs_of_life);
            for message in &messages {
                sent.extend(encode(message).unwrap());
                sent.extend(SIGN_OF_LIFE.repeat(signs_of_life));
            }
            let (mut buffer, mut received) = (BytesMut::new(), Vec::new());
            for piece in sent.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = decode(&mut buffer).unwrap() {
                    received.push(Abort::decode(frame).unwrap());
                }
            }
            prop_assert_eq!(received, messages);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn foreign_bytes_are_an_error_or_wait_for_more(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(bytes.as_slice());
            while let Ok(Some(frame)) = decode(&mut buffer) {
                let _ = Abort::decode(frame);
            }
            prop_assert!(buffer.capacity() <= 2 * bytes.len().max(64));
        }
    }

    #[test]
    fn an_overlong_message_is_refused_by_its_length() {
        let mut buffer = BytesMut::from(&(u32::MAX - 1).to_be_bytes()[..]);
        assert!(matches!(decode(&mut buffer), Err(FrameError::TooLong(_))));
        let long = Abort { code: 0, message: "x".repeat(MAX_MESSAGE_BYTES) };
        assert!(matches!(encode(&long), Err(FrameError::TooLong(_))));
    }
}

//! One chunk as one frame of zstd, and back.

use std::{cell::RefCell, sync::Arc};

use bytes::Bytes;
use ds_blockio::Buffers;
use ds_wire::CHUNK_BYTES;
use zstd::bulk::{Compressor, Decompressor};

/// The fastest of the usual ones: about as fast as a line of 10 Gbit/s for one core.
const LEVEL: i32 = 1;

thread_local! {
    /// Their tables, of some hundred KiB, are filled again for each chunk, and made once for each thread.
    static PACKER: RefCell<Option<(Compressor<'static>, Arc<Buffers>)>> = const { RefCell::new(None) };
    static UNPACKER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The frame; `None` where it would be hardly shorter.
pub(crate) fn pack(payload: &[u8]) -> Option<Bytes> {
    PACKER.with_borrow_mut(|packer| {
        if packer.is_none() {
            *packer = Some((Compressor::new(LEVEL).ok()?, Buffers::new(CHUNK_BYTES)));
        }
        let (compressor, buffers) = packer.as_mut()?;
        // Not worth what it costs the other end else. What does not fit is an error.
        let mut frame = buffers.take(payload.len() - payload.len() / 16);
        let length = compressor.compress_to_buffer(payload, frame.as_mut()).ok()?;
        frame.truncate(length);
        Some(frame.freeze())
    })
}

/// Fills `payload` with what is in the frame; `false` if that is not exactly as much, or it is no frame.
pub(crate) fn unpack(frame: &[u8], payload: &mut [u8]) -> bool {
    UNPACKER.with_borrow_mut(|unpacker| {
        if unpacker.is_none() {
            *unpacker = Decompressor::new().ok();
        }
        let unpacked = unpacker.as_mut().map(|unpacker| unpacker.decompress_to_buffer(frame, payload));
        matches!(unpacked, Some(Ok(length)) if length == payload.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shrinks_comes_back_and_what_does_not_is_left() {
        let text: Vec<u8> = (0..200_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let frame = pack(&text).unwrap();
        assert!(frame.len() < text.len() / 2);
        let mut back = vec![1; text.len()];
        assert!(unpack(&frame, &mut back));
        assert_eq!(back, text);

        let mut noise = vec![0; 100_000];
        aws_lc_rs::rand::fill(&mut noise).unwrap();
        assert!(pack(&noise).is_none());
        assert!(pack(b"x").is_none());
    }

    #[test]
    fn what_is_no_frame_or_another_length_is_refused() {
        let frame = pack(&[7; 10_000]).unwrap();
        for length in [0, 9_999, 10_001] {
            assert!(!unpack(&frame, &mut vec![0; length]), "{length}");
        }
        assert!(unpack(&frame, &mut [0; 10_000]), "a failure leaves nothing behind");
        assert!(!unpack(b"no frame", &mut [0; 8]));
        assert!(!unpack(&frame[..frame.len() - 1], &mut [0; 10_000]));
    }
}

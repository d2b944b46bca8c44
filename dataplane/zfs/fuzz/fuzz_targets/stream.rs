//! Bytes from anywhere through the reader of ZFS streams: it must neither panic nor judge by how they are cut into pieces.
#![no_main]

use ds_zfs::StreamReader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // The first byte says how it is cut.
    let Some((size, bytes)) = input.split_first() else { return };
    let mut whole = StreamReader::new();
    let _ = whole.push(bytes);
    let mut cut = StreamReader::new();
    for piece in bytes.chunks(usize::from(*size) + 1) {
        let _ = cut.push(piece);
    }
    assert_eq!(whole.finish(), cut.finish());
});

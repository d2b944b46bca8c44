//! The flags of `send`, by hand: what each needs of a stream's receiver, and that a chain keeps to them.

use ds_zfs::{BadBeginning, Error};

use crate::fixture::{Scratch, noise, pair, property_of, receive_bytes, received, sent};

const EMBEDDED: u64 = 1 << 16;
const LARGE_BLOCKS: u64 = 1 << 19;
const COMPRESSED: u64 = 1 << 22;
const RAW: u64 = 1 << 24;

/// The bits that a stream's first record says its receiver has to know.
fn needs(stream: &[u8]) -> u64 {
    u64::from_le_bytes(*stream[16..].first_chunk().unwrap()) >> 2
}

#[tokio::test]
async fn each_flag_shows_in_the_first_record() {
    let Some(pair) = pair("-c, -L, -e and none, and the bits that the stream then has").await else { return };
    let fs = Scratch::create(&pair.from, &["-o", "recordsize=1M", "-o", "compression=zstd"]);
    fs.write("large", &noise(3 << 20));
    fs.write("text", "a line\n".repeat(300_000).as_bytes());
    fs.write("tiny", b"123");
    let one = fs.snapshot("1");
    assert_eq!(needs(&sent(&[&one])) & (EMBEDDED | LARGE_BLOCKS | COMPRESSED | RAW), 0);
    for (flag, bit) in [("-e", EMBEDDED), ("-L", LARGE_BLOCKS), ("-c", COMPRESSED)] {
        let bits = needs(&sent(&[flag, &one]));
        assert_eq!(bits & (EMBEDDED | LARGE_BLOCKS | COMPRESSED), bit, "{flag}: {bits:#x}");
    }
    let smaller = sent(&["-Lce", &one]).len();
    assert!(smaller + 1_500_000 < sent(&[&one]).len(), "{smaller}: the text is sent compressed");
}

#[tokio::test]
async fn every_flag_arrives() {
    let Some(pair) = pair("full and increment of -c, -L, -e and all of them, read back").await else {
        return;
    };
    let fs = Scratch::create(&pair.from, &["-o", "recordsize=1M", "-o", "compression=lz4"]);
    fs.write("large", &noise(2 << 20));
    let one = fs.snapshot("1");
    fs.write("text", "a line\n".repeat(100_000).as_bytes());
    fs.write("tiny", b"123");
    let two = fs.snapshot("2");
    for flags in ["-c", "-L", "-e", "-Lce"] {
        let copy = Scratch::absent(&pair.to);
        received(&["-u", &copy.name], &sent(&[flags, &one])).unwrap();
        received(&["-u", &copy.name], &sent(&[flags, "-i", &one, &two])).unwrap();
        assert_eq!(property_of(&copy.at("2"), "guid"), property_of(&two, "guid"));
        copy.mounted();
        assert_eq!(std::fs::read(copy.folder.join("large")).unwrap(), noise(2 << 20));
        assert_eq!(std::fs::read(copy.folder.join("tiny")).unwrap(), b"123");
    }
}

#[tokio::test]
async fn large_blocks_do_not_go_back_to_small_ones() {
    let Some(pair) =
        pair("an increment without -L onto a full stream with it is refused, not split up").await
    else {
        return;
    };
    let (fs, copy) = (Scratch::create(&pair.from, &["-o", "recordsize=1M"]), Scratch::absent(&pair.to));
    fs.write("f", &noise(3 << 20));
    let one = fs.snapshot("1");
    fs.write("g", &noise(3 << 20));
    let two = fs.snapshot("2");
    received(&["-u", &copy.name], &sent(&["-L", &one])).unwrap();
    let said = received(&["-u", &copy.name], &sent(&["-i", &one, &two])).unwrap_err();
    assert!(said.contains("requires -L"), "{said}");
    received(&["-u", &copy.name], &sent(&["-L", "-i", &one, &two])).unwrap();
}

#[tokio::test]
async fn raw_is_not_let_in_where_plain_is_planned() {
    let Some(pair) = pair("a raw stream in place of the planned one").await else { return };
    let (volume, first) = pair.volume().await;
    let second = pair.from.write(volume, "f", b"2");
    let plan = pair.plan(volume, second).await;
    // Of a filesystem that is not encrypted, raw means large blocks, compressed and embedded.
    let target = format!("{}@{}", pair.from.main(volume), second.to_hex());
    let mut stream = sent(&["-w", "-i", &format!("@{}", first.to_hex()), &target]);
    let version = u64::from_le_bytes(*stream[16..].first_chunk().unwrap());
    stream[16..24].copy_from_slice(&(version | RAW << 2).to_le_bytes());
    let error = receive_bytes(&pair.to.volumes, &plan, stream).await.unwrap_err();
    assert!(matches!(error, Error::Refused { source: BadBeginning::Features(_), .. }), "{error}");
}

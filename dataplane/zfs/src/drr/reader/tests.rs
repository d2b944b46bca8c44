//! On streams of OpenZFS (how they were made: `tests/streams/README.md`) and on made-up ones with every type of record.

use proptest::{prelude::*, sample::Index};

use super::*;
use crate::{BadBeginning, SnapshotGuid, StreamFeatures};

const STREAMS: [&[u8]; 5] = [
    include_bytes!("../../../tests/streams/full.zfs"),
    include_bytes!("../../../tests/streams/incremental.zfs"),
    include_bytes!("../../../tests/streams/compressed.zfs"),
    include_bytes!("../../../tests/streams/raw.zfs"),
    include_bytes!("../../../tests/streams/raw-incremental.zfs"),
];

const GUID: u64 = 0x0102_0304_0506_0708;

fn read(bytes: &[u8]) -> Result<StreamProgress, BadStream> {
    let mut reader = StreamReader::new();
    reader.push(bytes)?;
    reader.finish()
}

fn fault(bytes: &[u8]) -> Fault {
    read(bytes).expect_err("it is bad").fault
}

/// Makes streams: numbers go in at their offsets, checksums are filled in.
#[derive(Clone)]
struct Made {
    bytes: Vec<u8>,
    order: ByteOrder,
    fletcher: Fletcher4,
    /// Whether every record has its checksum, as OpenZFS writes them.
    sealed: bool,
}

#[derive(Clone, Copy)]
enum Number {
    Byte(usize, u8),
    Word(usize, u32),
    Long(usize, u64),
}
use Number::{Byte, Long, Word};

impl Made {
    fn begin(order: ByteOrder, sealed: bool, features: StreamFeatures, payload: &[u8]) -> Self {
        let mut made = Self { bytes: Vec::new(), order, fletcher: Fletcher4::new(order), sealed };
        let length = u32::try_from(payload.len()).unwrap();
        let version = 1 | features.0 << 2;
        let numbers =
            [Word(4, length), Long(8, 0x2_f5ba_cbac), Long(16, version), Word(32, 2), Long(40, GUID)];
        let record = made.record(0, &numbers);
        made.append(&record, payload);
        made
    }

    fn record(&self, kind: u32, numbers: &[Number]) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        let big = self.order == ByteOrder::Big;
        for number in [Word(0, kind)].iter().chain(numbers) {
            match *number {
                Byte(at, value) => record[at] = value,
                Word(at, value) if big => record[at..at + 4].copy_from_slice(&value.to_be_bytes()),
                Word(at, value) => record[at..at + 4].copy_from_slice(&value.to_le_bytes()),
                Long(at, value) if big => record[at..at + 8].copy_from_slice(&value.to_be_bytes()),
                Long(at, value) => record[at..at + 8].copy_from_slice(&value.to_le_bytes()),
            }
        }
        record
    }

    fn push(&mut self, kind: u32, numbers: &[Number], payload: &[u8]) {
        let mut record = self.record(kind, numbers);
        if self.sealed {
            let mut fletcher = self.fletcher.clone();
            fletcher.update(&record[..CHECKSUM_AT]);
            let at = |(index, sum)| Long(CHECKSUM_AT + 8 * index, sum);
            let sums: Vec<Number> = fletcher.sums().into_iter().enumerate().map(at).collect();
            record = self.record(kind, &[numbers, &sums].concat());
        }
        self.append(&record, payload);
    }

    fn end(mut self) -> Vec<u8> {
        let [a, b, c, d] = self.fletcher.sums();
        self.push(5, &[Long(8, a), Long(16, b), Long(24, c), Long(32, d), Long(40, GUID)], &[]);
        self.bytes
    }

    fn append(&mut self, record: &[u8; RECORD_BYTES], payload: &[u8]) {
        for bytes in [record.as_slice(), payload] {
            self.fletcher.update(bytes);
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// One record of each type, with a payload of each kind.
    fn all_records(order: ByteOrder, sealed: bool) -> Vec<u8> {
        let mut made = Self::begin(order, sealed, StreamFeatures::RESUMING, &[1; 44]);
        made.push(1, &[Long(8, 7), Word(28, 13), Long(40, GUID)], &[2; 16]);
        made.push(1, &[Long(8, 8), Word(28, 13), Word(36, 20), Long(40, GUID)], &[3; 20]);
        made.push(2, &[Long(8, 9), Long(16, u64::MAX), Long(24, GUID)], &[]);
        made.push(3, &[Long(8, 7), Long(32, 512), Long(40, GUID)], &[4; 512]);
        made.push(3, &[Long(8, 7), Long(32, 4096), Long(40, GUID), Byte(50, 15), Long(96, 1024)], &[5; 1024]);
        made.push(4, &[Long(8, 7), Long(16, 512), Long(24, u64::MAX), Long(32, GUID)], &[]);
        made.push(6, &[Long(8, 7), Long(24, 1000), Long(32, GUID)], &[]);
        made.push(7, &[Long(8, 7), Long(16, 512), Long(24, GUID)], &[6; 512]);
        made.push(7, &[Long(8, 7), Long(16, 512), Long(24, GUID), Long(40, 64)], &[7; 64]);
        made.push(8, &[Long(8, 70), Long(24, 200), Long(32, GUID), Word(48, 200), Word(52, 69)], &[8; 72]);
        made.push(9, &[Long(8, 32), Long(16, 32), Long(24, GUID)], &[]);
        made.push(10, &[Long(8, 7), Long(24, 100), Long(32, GUID)], &[]);
        made.end()
    }
}

const BOTH: [ByteOrder; 2] = [ByteOrder::Little, ByteOrder::Big];

#[test]
fn every_record_of_either_byte_order_is_followed() {
    for (order, sealed) in BOTH.into_iter().flat_map(|order| [(order, true), (order, false)]) {
        let bytes = Made::all_records(order, sealed);
        let expected = StreamProgress {
            records: 14,
            stream_bytes: bytes.len() as u64,
            logical_bytes: 512 + 4096 + 1000 + 512 + 512 + 200,
            highest_object: 70,
            ended: true,
        };
        assert_eq!(read(&bytes), Ok(expected));
    }
}

#[test]
fn streams_of_openzfs_are_followed() {
    let bits = [0x4, 0x4, 0x4b_0004, 0x142_0004, 0x142_0004];
    for (bytes, features) in STREAMS.into_iter().zip(bits) {
        let mut reader = StreamReader::new();
        reader.push(bytes).unwrap();
        assert_eq!(reader.finish().unwrap().stream_bytes, bytes.len() as u64);
        assert_eq!(reader.begin().unwrap().features, StreamFeatures(features));
    }
    let compressed = read(STREAMS[2]).unwrap();
    assert!(compressed.logical_bytes > 4 * compressed.stream_bytes, "{compressed:?}");
}

#[test]
fn what_no_zfs_writes_is_refused_with_its_place() {
    let start = |features| Made::begin(ByteOrder::Little, true, features, &[]);
    let plain = start(StreamFeatures::NONE);
    let with = |kind, numbers: &[Number]| {
        let mut made = plain.clone();
        made.push(kind, numbers, &[]);
        read(&made.bytes).expect_err("it is bad")
    };
    let bad = with(11, &[]);
    assert_eq!((bad.offset, bad.record, bad.fault), (312, 1, Fault::UnknownRecord(11)));
    assert_eq!(with(0, &[]).fault, Fault::SecondBeginning);
    let huge = [Long(32, (16 << 20) + 4), Long(40, GUID)];
    assert_eq!(with(3, &huge).fault, Fault::PayloadLength((16 << 20) + 4));
    assert_eq!(with(3, &[Long(32, 513), Long(40, GUID)]).fault, Fault::PayloadLength(513));
    let (expected, found) = (SnapshotGuid(GUID), SnapshotGuid(1));
    assert_eq!(with(4, &[Long(32, 1)]).fault, Fault::AnotherSnapshot { expected, found });
    let end = with(5, &[Long(8, 1), Long(40, GUID)]);
    assert_eq!(end.fault, Fault::Checksum);

    let mut behind = plain.clone().end();
    behind.push(0);
    let bad = read(&behind).expect_err("it is bad");
    assert_eq!((bad.offset, bad.record, bad.fault), (624, 2, Fault::BehindEnd));
    let package = Made::begin(ByteOrder::Little, true, StreamFeatures::NONE, &[0; 8]);
    assert_eq!(fault(&package.bytes), Fault::Beginning(BadBeginning::Compound));
    assert_eq!(fault(&[7; 400]), Fault::Beginning(BadBeginning::NoStream));
    assert_eq!(fault(&[]), Fault::Incomplete);
    assert_eq!(fault(&STREAMS[0][..STREAMS[0].len() - 1]), Fault::Incomplete);
}

#[test]
fn a_bad_stream_stays_bad() {
    let mut reader = StreamReader::new();
    let bad = reader.push(&[1; 312]).unwrap_err();
    assert_eq!(reader.push(STREAMS[0]), Err(bad.clone()));
    assert_eq!(reader.finish(), Err(bad));
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let made =
        BOTH.into_iter().flat_map(|order| [Made::all_records(order, true), Made::all_records(order, false)]);
    let all: Vec<Vec<u8>> = STREAMS.into_iter().map(<[u8]>::to_vec).chain(made).collect();
    proptest::sample::select(all)
}

proptest! {
    #[test]
    fn pieces_do_not_matter(bytes in stream(), flip: Option<(Index, u8)>, sizes in proptest::collection::vec(1usize..3000, 1..60)) {
        let mut bytes = bytes;
        if let Some((at, bits)) = flip {
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
        }
        let mut reader = StreamReader::new();
        let mut rest = bytes.as_slice();
        for size in sizes.iter().cycle() {
            let (piece, others) = rest.split_at(rest.len().min(*size));
            let _ = reader.push(piece);
            rest = others;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(reader.finish(), read(&bytes));
    }

    /// In a sealed stream every byte is covered; else those of the last record but its type, checksum and GUID are not.
    #[test]
    fn no_damage_passes(bytes in stream(), at: Index, bits in 1u8..) {
        let mut damaged = bytes.clone();
        let at = at.index(bytes.len());
        damaged[at] ^= bits;
        let in_end = (at + RECORD_BYTES).checked_sub(bytes.len());
        let sealed = bytes[bytes.len() - 32..] != [0; 32];
        let covered = sealed || in_end.is_none_or(|at| at < 4 || (8..48).contains(&at));
        prop_assert!(read(&damaged).is_err() || !covered, "byte {} of {}", at, bytes.len());
        prop_assert!(read(&damaged).is_err() || read(&damaged) == read(&bytes));
    }

    #[test]
    fn no_end_is_missed(bytes in stream(), at: Index) {
        prop_assert!(read(&bytes[..at.index(bytes.len())]).is_err());
    }

    /// Whatever follows a good beginning.
    #[test]
    fn no_bytes_make_it_panic(big: bool, records in proptest::collection::vec((0u32..12, proptest::collection::vec(any::<u8>(), RECORD_BYTES - 4)), 0..8)) {
        let order = BOTH[usize::from(big)];
        let mut bytes = Made::begin(order, false, StreamFeatures::NONE, &[]).bytes;
        for (kind, record) in records {
            bytes.extend(if big { kind.to_be_bytes() } else { kind.to_le_bytes() });
            bytes.extend(record);
        }
        let _ = read(&bytes);
        let _ = read(&bytes[RECORD_BYTES..]);
    }
}

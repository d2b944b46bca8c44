//! Whether chunks travel compressed: where the stream is neither compressed nor encrypted by ZFS already, and only while
//! that moves more of it. Pure.
//!
//! A moment without and a moment with compression are compared: on a fast line one core compresses less than it could send, and on a
//! slow one the line is what counts. Before, one chunk shows whether there is anything to gain at all.

pub(crate) mod zstd;

use std::time::{Duration, Instant};

use ds_zfs::{BEGIN_BYTES, StreamFeatures, StreamReader};

/// Nothing is tried before a transfer has lasted so long, and then it rests as long after each trial.
const FIRST_REST: Duration = Duration::from_secs(2);
/// A rest is twice as long as the one before for as long as nothing changes.
const LONGEST_REST: Duration = Duration::from_mins(5);
/// Each way is measured for so long.
const PERIOD: Duration = Duration::from_secs(1);
/// What was handed to the lanes in the other way has to be on its way first.
const SETTLING: Duration = Duration::from_millis(250);
/// A chunk that stays longer than this share of itself shows that there is too little to gain.
const MOST_PERCENT: u64 = 90;
/// Compression costs both ends CPU time, so it has to move this much more, in percent.
const WORTH_PERCENT: f64 = 110.0;

/// What one transfer knows of it, at its sending end.
#[derive(Debug)]
pub(crate) struct Compression {
    /// Whether it compresses, apart from trials.
    on: bool,
    rest: Duration,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// Compression has no place here.
    Never,
    Resting {
        until: Instant,
    },
    /// The next chunk is compressed, to see.
    Sampling {
        taken: bool,
    },
    /// The way of before is measured from when there is a count; then the other one.
    Measuring {
        on: bool,
        from: Instant,
        sent: Option<u64>,
        other: Option<f64>,
    },
}

/// The outcome of a trial, in bytes of the stream per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Decision {
    /// Whether it moves enough more.
    pub(crate) pays: bool,
    pub(crate) plain: f64,
    pub(crate) compressed: f64,
}

impl Compression {
    /// Of a stream that begins with `first`: it has to be one of ZFS, whose blocks travel as they are read.
    pub(crate) fn of(first: &[u8], now: Instant) -> Self {
        let mut reader = StreamReader::new();
        let head = &first[..first.len().min(BEGIN_BYTES)];
        let begin = reader.push(head).ok().and_then(|()| reader.begin());
        let as_on_disk = StreamFeatures::COMPRESSED | StreamFeatures::RAW;
        let step = match begin {
            Some(begin) if !begin.features.intersects(as_on_disk) => {
                Step::Resting { until: now + FIRST_REST }
            }
            _ => Step::Never,
        };
        Self { on: false, rest: FIRST_REST, step }
    }

    /// Whether the chunk that is handed to a lane now is to be compressed.
    pub(crate) fn wants_next(&mut self) -> bool {
        match &mut self.step {
            Step::Sampling { taken } => !std::mem::replace(taken, true) || self.on,
            Step::Measuring { on, .. } => *on,
            Step::Never | Step::Resting { .. } => self.on,
        }
    }

    /// A chunk that was to be compressed went to its lane, with so many bytes in place of its own.
    pub(crate) fn packed(&mut self, now: Instant, bytes: u64, travelled: u64) {
        if !matches!(self.step, Step::Sampling { taken: true }) {
            return;
        }
        if travelled * 100 > bytes * MOST_PERCENT {
            self.on = false;
            self.rest(now, true);
        } else {
            self.step = Step::Measuring { on: self.on, from: now, sent: None, other: None };
        }
    }

    /// Goes on, if it is time to; says what was decided, if that is something new. Lanes were handed `sent` bytes of the stream.
    pub(crate) fn step(&mut self, now: Instant, sent: u64) -> Option<Decision> {
        match self.step {
            Step::Resting { until } if now >= until => self.step = Step::Sampling { taken: false },
            Step::Measuring { on, from, sent: None, other } if now >= from => {
                self.step = Step::Measuring { on, from: now, sent: Some(sent), other };
            }
            Step::Measuring { on, from, sent: Some(before), other } if now >= from + PERIOD => {
                let rate = (sent - before) as f64 / (now - from).as_secs_f64();
                let Some(other) = other else {
                    let from = now + SETTLING;
                    self.step = Step::Measuring { on: !on, from, sent: None, other: Some(rate) };
                    return None;
                };
                let (plain, compressed) = if on { (other, rate) } else { (rate, other) };
                let pays = compressed * 100.0 >= plain * WORTH_PERCENT;
                let same = pays == self.on;
                self.on = pays;
                self.rest(now, same);
                return (!same).then_some(Decision { pays, plain, compressed });
            }
            _ => {}
        }
        None
    }

    fn rest(&mut self, now: Instant, nothing_new: bool) {
        self.rest = if nothing_new { (self.rest * 2).min(LONGEST_REST) } else { FIRST_REST };
        self.step = Step::Resting { until: now + self.rest };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const MIB: u64 = 1 << 20;

    /// The first record of a stream with these features.
    fn beginning(features: StreamFeatures) -> Vec<u8> {
        let mut record = vec![0; BEGIN_BYTES];
        record[8..16].copy_from_slice(&0x2_f5ba_cbac_u64.to_le_bytes());
        record[16..24].copy_from_slice(&(features.0 << 2 | 1).to_le_bytes());
        record[32..36].copy_from_slice(&2_u32.to_le_bytes());
        record[40..48].copy_from_slice(&70_u64.to_le_bytes());
        record
    }

    struct Line {
        compression: Compression,
        now: Instant,
        sent: u64,
        compressed: u64,
    }

    impl Line {
        fn of(features: StreamFeatures) -> Self {
            let now = Instant::now();
            let compression = Compression::of(&beginning(features), now);
            Self { compression, now, sent: 0, compressed: 0 }
        }

        /// Sends chunks for so many seconds, at so many MiB a second as they are and compressed, each compressed to so many percent.
        fn send(&mut self, seconds: u64, plain: u64, compressed: u64, percent: u64) -> Vec<bool> {
            let (mut decisions, end) = (Vec::new(), self.now + Duration::from_secs(seconds));
            while self.now < end {
                decisions.extend(self.compression.step(self.now, self.sent).map(|d| d.pays));
                let packs = self.compression.wants_next();
                self.now += 1000 * MS / u32::try_from(if packs { compressed } else { plain }).unwrap();
                self.sent += MIB;
                self.compressed += u64::from(packs);
                if packs {
                    self.compression.packed(self.now, MIB, MIB * percent / 100);
                }
            }
            decisions
        }
    }

    #[test]
    fn it_compresses_while_that_moves_more() {
        let mut line = Line::of(StreamFeatures::NONE);
        assert_eq!(line.send(10, 100, 250, 40), [true], "a slow line");
        assert!(line.compression.on);
        assert_eq!(line.send(60, 2_000, 500, 40), [false], "which becomes a fast one");
        assert!(!line.compression.on);
    }

    #[test]
    fn what_does_not_shrink_costs_a_chunk_now_and_then() {
        let mut line = Line::of(StreamFeatures::NONE);
        assert_eq!(line.send(1_000, 100, 50, 100), [false; 0]);
        assert!(line.compressed < 12, "{}", line.compressed);
    }

    #[test]
    fn a_stream_that_waits_for_its_source_is_left_alone() {
        let mut line = Line::of(StreamFeatures::LARGE_BLOCKS);
        assert_eq!(line.send(30, 100, 100, 40), [false; 0]);
        assert!(!line.compression.on);
    }

    #[test]
    fn what_is_packed_already_and_what_is_no_stream_is_never_tried() {
        for features in [StreamFeatures::COMPRESSED, StreamFeatures::RAW] {
            let mut line = Line::of(features);
            line.send(100, 10, 1_000, 10);
            assert_eq!(line.compressed, 0, "{features}");
        }
        for first in [b"something else".as_slice(), &[0; 4096]] {
            assert!(matches!(Compression::of(first, Instant::now()).step, Step::Never));
        }
    }
}

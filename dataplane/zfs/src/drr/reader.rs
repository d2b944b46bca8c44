//! Follows a stream from record to record, as its bytes fly by.

use super::{
    begin::{BEGIN_BYTES, StreamBegin},
    fault::{BadStream, Fault},
    fletcher::Fletcher4,
    record::{ByteOrder, CHECKSUM_AT, Fields, Kind, RECORD_BYTES, Record},
};

/// How far a stream is, by its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamProgress {
    /// Records that were seen to their last byte, without their payloads.
    pub records: u64,
    /// Bytes of the stream.
    pub stream_bytes: u64,
    /// Bytes of files and folders that were begun to be written, before any compression.
    pub logical_bytes: u64,
    /// The highest number of a file or other object that a record was about; they come in rising order.
    pub highest_object: u64,
    /// Whether its last record was seen.
    pub ended: bool,
}

/// Reads a stream's records from pieces of any size; see the module for what it is good for. It keeps about 400 bytes and never
/// waits, allocates or panics, whatever the bytes.
#[derive(Debug, Clone)]
pub struct StreamReader {
    /// The record that is being collected.
    record: [u8; RECORD_BYTES],
    collected: usize,
    /// What is still to come of a payload.
    payload_left: u64,
    /// Known from the first record on.
    begun: Option<Begun>,
    progress: StreamProgress,
    failed: Option<BadStream>,
}

#[derive(Debug, Clone)]
struct Begun {
    begin: StreamBegin,
    order: ByteOrder,
    fletcher: Fletcher4,
}

impl Default for StreamReader {
    fn default() -> Self {
        Self::new()
    }
}

impl StreamReader {
    /// Before the first byte of a stream.
    pub fn new() -> Self {
        Self {
            record: [0; RECORD_BYTES],
            collected: 0,
            payload_left: 0,
            begun: None,
            progress: StreamProgress::default(),
            failed: None,
        }
    }

    /// Looks at the next bytes, which are good so far unless this fails; once it has failed, it fails in the same way for ever.
    ///
    /// A payload is only known to be whole when the record behind it was seen: so the last payload of a piece may be damaged
    /// although this succeeds. `zfs receive` writes nothing of it to disk before it has seen that record as well.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), BadStream> {
        if let Some(bad) = &self.failed {
            return Err(bad.clone());
        }
        self.read(bytes).map_err(|fault| {
            let bad = self.bad(fault);
            self.failed.insert(bad).clone()
        })
    }

    /// What the stream says of itself; `None` before its first record is whole.
    pub fn begin(&self) -> Option<&StreamBegin> {
        self.begun.as_ref().map(|begun| &begun.begin)
    }

    /// How far it is.
    pub fn progress(&self) -> StreamProgress {
        self.progress
    }

    /// Checks that the bytes so far are a whole stream.
    pub fn finish(&self) -> Result<StreamProgress, BadStream> {
        match &self.failed {
            Some(bad) => Err(bad.clone()),
            None if self.progress.ended => Ok(self.progress),
            None => Err(self.bad(Fault::Incomplete)),
        }
    }

    fn bad(&self, fault: Fault) -> BadStream {
        let StreamProgress { records, stream_bytes, .. } = self.progress;
        match fault {
            // A payload belongs to the record before it.
            Fault::Incomplete => {
                let in_payload = u64::from(self.payload_left > 0);
                BadStream { offset: stream_bytes, record: records - in_payload, fault }
            }
            _ => BadStream { offset: stream_bytes - self.collected as u64, record: records, fault },
        }
    }

    fn read(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            if self.progress.ended {
                return Err(Fault::BehindEnd);
            }
            let taken = if self.payload_left > 0 { self.pass(bytes) } else { self.collect(bytes) };
            self.progress.stream_bytes += taken as u64;
            bytes = &bytes[taken..];
            if self.collected == RECORD_BYTES {
                self.take_record()?;
                self.collected = 0;
                self.progress.records += 1;
            }
        }
        Ok(())
    }

    /// Passes over a part of a payload.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let taken = usize::try_from(self.payload_left).map_or(bytes.len(), |left| left.min(bytes.len()));
        if let Some(begun) = &mut self.begun {
            begun.fletcher.update(&bytes[..taken]);
        }
        self.payload_left -= taken as u64;
        taken
    }

    /// Copies a part of a record.
    fn collect(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(RECORD_BYTES - self.collected);
        self.record[self.collected..][..taken].copy_from_slice(&bytes[..taken]);
        self.collected += taken;
        taken
    }

    fn take_record(&mut self) -> Result<(), Fault> {
        let Some(begun) = &mut self.begun else {
            let (begin, order) = StreamBegin::parse(&self.record)?;
            let mut fletcher = Fletcher4::new(order);
            fletcher.update(&self.record);
            self.payload_left = begin.payload_bytes;
            self.begun = Some(Begun { begin, order, fletcher });
            return Ok(());
        };
        let record = begun.take_record(&self.record)?;
        self.payload_left = record.payload_bytes;
        // A hostile stream may claim more than fits.
        self.progress.logical_bytes = self.progress.logical_bytes.saturating_add(record.logical_bytes);
        self.progress.highest_object = self.progress.highest_object.max(record.object.unwrap_or(0));
        self.progress.ended = record.kind == Kind::End;
        Ok(())
    }
}

impl Begun {
    fn take_record(&mut self, bytes: &[u8; RECORD_BYTES]) -> Result<Record, Fault> {
        let fields = Fields::new(bytes, self.order);
        let record = Record::read(fields)?;
        if record.kind == Kind::End && fields.checksum(8) != self.fletcher.sums() {
            return Err(Fault::Checksum);
        }
        let (covered, tail) = bytes.split_at(CHECKSUM_AT);
        self.fletcher.update(covered);
        let checksum = fields.checksum(CHECKSUM_AT);
        // Zero says that there is none, as in all records of zfs-fuse.
        if checksum != [0; 4] && checksum != self.fletcher.sums() {
            return Err(Fault::Checksum);
        }
        self.fletcher.update(tail);
        if record.guid != self.begin.to {
            return Err(Fault::AnotherSnapshot { expected: self.begin.to, found: record.guid });
        }
        Ok(record)
    }
}

const _: () = assert!(BEGIN_BYTES == RECORD_BYTES);

#[cfg(test)]
mod tests;

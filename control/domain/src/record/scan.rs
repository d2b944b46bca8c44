//! Finds records in a stream of bytes.

use std::collections::VecDeque;

use uuid::Uuid;

use super::RecordProblem;
use crate::RunId;

/// A record's JSON may have this many bytes.
pub const MAX_RECORD_BYTES: usize = 4 << 20;

/// Records that may be open at once: one inside another's text, or one that was cut off before the next began.
const MAX_OPEN: usize = 16;
/// Bytes taken from a push at a time, so that a large push needs no large buffer.
const STEP_BYTES: usize = 64 << 10;
const OPENING: &[u8] = b"[[DOTSCIENCE-RUN:";
const CLOSING: &[u8] = b"[[/DOTSCIENCE-RUN:";
const ID_BYTES: usize = 36;

/// What a stream contained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A complete record.
    Record {
        /// The id in its tags.
        id: RunId,
        /// What stood between them, not looked into.
        json: Vec<u8>,
    },
    /// Something that a person should know.
    Problem(RecordProblem),
}

/// Finds records in bytes that arrive in pieces. How they are split makes no difference to what is found.
///
/// Takes linear time, and at most about [`MAX_RECORD_BYTES`] of memory. A record that is cut off does not hide the ones
/// after it: an opening tag inside an open record is remembered beside it, and whichever closing tag comes decides.
#[derive(Debug, Default)]
pub struct RecordParser {
    /// Bytes that may still be needed, the oldest open record's JSON first.
    buffer: Vec<u8>,
    /// Where in `buffer` to look for the next tag.
    scan: usize,
    /// Open records, oldest first.
    open: VecDeque<Open>,
    /// Records given up lately, whose closing tags are no news.
    given_up: VecDeque<RunId>,
}

#[derive(Debug)]
struct Open {
    id: RunId,
    /// Where in `buffer` its JSON starts.
    start: usize,
}

enum Tag {
    Opening(RunId),
    Closing(RunId),
    BadId(String),
}

/// What stands at a position of the buffer.
enum Look {
    Text,
    Unfinished,
    Tag(Tag, usize),
}

impl RecordParser {
    /// Takes the next bytes and reports what they complete.
    pub fn push(&mut self, bytes: &[u8], found: &mut impl FnMut(Item)) {
        for step in bytes.chunks(STEP_BYTES) {
            self.buffer.extend_from_slice(step);
            self.scan(found);
            self.trim();
        }
    }

    /// The stream is over: reports what was left open.
    pub fn finish(&mut self, found: &mut impl FnMut(Item)) {
        for open in self.open.drain(..) {
            found(Item::Problem(RecordProblem::NotClosed(open.id)));
        }
        *self = Self::default();
    }

    fn scan(&mut self, found: &mut impl FnMut(Item)) {
        while let Some(bracket) = self.buffer[self.scan..].iter().position(|&byte| byte == b'[') {
            self.scan += bracket;
            self.give_up_too_long(found);
            match look(&self.buffer[self.scan..]) {
                Look::Unfinished => return,
                Look::Text => self.scan += 1,
                Look::Tag(tag, length) => {
                    let at = self.scan;
                    self.scan += length;
                    self.tag(tag, at, found);
                }
            }
        }
        self.scan = self.buffer.len();
        self.give_up_too_long(found);
    }

    /// `at` is where the tag starts; `self.scan` where it ends.
    fn tag(&mut self, tag: Tag, at: usize, found: &mut impl FnMut(Item)) {
        match tag {
            Tag::BadId(text) => found(Item::Problem(RecordProblem::BadId(text))),
            Tag::Opening(id) => {
                if self.open.len() == MAX_OPEN {
                    self.give_up_oldest(RecordProblem::NotClosed, found);
                }
                self.open.push_back(Open { id, start: self.scan });
            }
            Tag::Closing(id) => match self.open.iter().rposition(|open| open.id == id) {
                Some(index) => {
                    let json = self.buffer[self.open[index].start..at].to_vec();
                    found(Item::Record { id, json });
                    for inner in self.open.drain(index..).skip(1) {
                        found(Item::Problem(RecordProblem::NotClosed(inner.id)));
                    }
                }
                None if self.given_up.contains(&id) => {}
                None => found(Item::Problem(RecordProblem::NotOpened(id))),
            },
        }
    }

    fn give_up_too_long(&mut self, found: &mut impl FnMut(Item)) {
        while self.open.front().is_some_and(|oldest| self.scan - oldest.start > MAX_RECORD_BYTES) {
            self.give_up_oldest(RecordProblem::TooLong, found);
        }
    }

    fn give_up_oldest(&mut self, why: fn(RunId) -> RecordProblem, found: &mut impl FnMut(Item)) {
        let Some(oldest) = self.open.pop_front() else { return };
        found(Item::Problem(why(oldest.id)));
        if self.given_up.len() == MAX_OPEN {
            self.given_up.pop_front();
        }
        self.given_up.push_back(oldest.id);
    }

    /// Drops what is done with, once that is most of the buffer, so that each byte is moved a bounded number of times.
    fn trim(&mut self) {
        let done = self.open.front().map_or(self.scan, |oldest| oldest.start);
        if done <= self.buffer.len() / 2 {
            return;
        }
        self.buffer.drain(..done);
        self.scan -= done;
        for open in &mut self.open {
            open.start -= done;
        }
        if self.buffer.capacity() > 2 * (self.buffer.len() + STEP_BYTES) {
            self.buffer.shrink_to(self.buffer.len() + STEP_BYTES);
        }
    }
}

/// Reads a tag at the start of `bytes`, if one is there.
fn look(bytes: &[u8]) -> Look {
    let closing = bytes.get(2) == Some(&b'/');
    let start = if closing { CLOSING } else { OPENING };
    let Some(rest) = bytes.strip_prefix(start) else {
        return if start.starts_with(bytes) { Look::Unfinished } else { Look::Text };
    };
    let Some(id) = rest.get(..ID_BYTES) else { return Look::Unfinished };
    let Ok(id) = Uuid::try_parse_ascii(id).map(RunId) else {
        return Look::Tag(Tag::BadId(String::from_utf8_lossy(id).into_owned()), start.len());
    };
    match &rest[ID_BYTES..] {
        [b']', b']', ..] => {
            let tag = if closing { Tag::Closing(id) } else { Tag::Opening(id) };
            Look::Tag(tag, start.len() + ID_BYTES + 2)
        }
        [] | [b']'] => Look::Unfinished,
        _ => Look::Text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "3f2c8a4e-0c7e-4f5b-9d1a-2b6f0f6f7a11";
    const B: &str = "11111111-0c7e-4f5b-9d1a-2b6f0f6f7a11";

    fn record(id: &str, json: &str) -> String {
        format!("[[DOTSCIENCE-RUN:{id}]]{json}[[/DOTSCIENCE-RUN:{id}]]")
    }

    fn found(id: &str, json: &[u8]) -> Item {
        Item::Record { id: id.parse().unwrap(), json: json.to_vec() }
    }

    fn problem(make: fn(RunId) -> RecordProblem, id: &str) -> Item {
        Item::Problem(make(id.parse().unwrap()))
    }

    fn items<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Item> {
        let mut parser = RecordParser::default();
        let mut items = Vec::new();
        for piece in pieces {
            parser.push(piece, &mut |item| items.push(item));
            assert!(parser.buffer.len() <= MAX_RECORD_BYTES * 2 + 2 * STEP_BYTES);
        }
        parser.finish(&mut |item| items.push(item));
        items
    }

    #[test]
    fn records_are_found_between_other_output() {
        let text = format!("epoch 1 [[x]]\n{}\nnoise[[[{}", record(A, "{1}"), record(B, "{2}"));
        assert_eq!(items([text.as_bytes()]), [found(A, b"{1}"), found(B, b"{2}")]);
        assert_eq!(items(text.as_bytes().chunks(1)), [found(A, b"{1}"), found(B, b"{2}")]);
    }

    #[test]
    fn bytes_that_are_not_utf8_pass_through() {
        let mut bytes = format!("\0[[DOTSCIENCE-RUN:{A}]]").into_bytes();
        bytes.extend_from_slice(b"\xff\xfe{}");
        bytes.extend_from_slice(format!("[[/DOTSCIENCE-RUN:{A}]]").as_bytes());
        assert_eq!(items([bytes.as_slice()]), [found(A, b"\xff\xfe{}")]);
    }

    #[test]
    fn a_record_that_is_cut_off_does_not_hide_the_next() {
        let text = format!("[[DOTSCIENCE-RUN:{A}]]{{\"ver{}", record(B, "{}"));
        assert_eq!(items([text.as_bytes()]), [found(B, b"{}"), problem(RecordProblem::NotClosed, A)]);
    }

    #[test]
    fn a_record_whose_text_quotes_another_is_complete() {
        let inner = record(B, "{}");
        let text = record(A, &format!("\"{inner}\""));
        assert_eq!(items([text.as_bytes()]), [found(B, b"{}"), found(A, format!("\"{inner}\"").as_bytes())]);
    }

    #[test]
    fn tags_that_do_not_match_are_named() {
        let text = format!("[[DOTSCIENCE-RUN:{A}]]{{}}[[/DOTSCIENCE-RUN:{B}]]");
        let expected = [problem(RecordProblem::NotOpened, B), problem(RecordProblem::NotClosed, A)];
        assert_eq!(items([text.as_bytes()]), expected);

        let text = format!("[[DOTSCIENCE-RUN:{}]]{{}}", "x".repeat(36));
        assert_eq!(items([text.as_bytes()]), [Item::Problem(RecordProblem::BadId("x".repeat(36)))]);
    }

    #[test]
    fn a_hundred_megabytes_are_skipped_and_reported_once() {
        let opening = format!("[[DOTSCIENCE-RUN:{A}]]");
        let block = vec![b'x'; 1 << 20];
        let rest = format!("[[/DOTSCIENCE-RUN:{A}]]{}", record(B, "{}"));
        let pieces = std::iter::once(opening.as_bytes())
            .chain(std::iter::repeat_n(block.as_slice(), 100))
            .chain(std::iter::once(rest.as_bytes()));
        assert_eq!(items(pieces), [problem(RecordProblem::TooLong, A), found(B, b"{}")]);
    }

    #[test]
    fn the_limit_is_exact() {
        let fits = record(A, &"x".repeat(MAX_RECORD_BYTES));
        assert!(matches!(items([fits.as_bytes()])[..], [Item::Record { .. }]));
        let over = record(A, &"x".repeat(MAX_RECORD_BYTES + 1));
        assert_eq!(items([over.as_bytes()]), [problem(RecordProblem::TooLong, A)]);
    }

    /// Text made of what tags are made of, so that halves of tags meet often.
    fn fragments() -> impl Strategy<Value = Vec<u8>> {
        let fragment = prop_oneof![
            Just(b"[".to_vec()),
            Just(b"]]".to_vec()),
            Just(b"[[DOTSCIENCE-RUN:".to_vec()),
            Just(b"[[/DOTSCIENCE-RUN:".to_vec()),
            Just(A.as_bytes().to_vec()),
            Just(format!("[[DOTSCIENCE-RUN:{A}]]").into_bytes()),
            Just(format!("[[/DOTSCIENCE-RUN:{A}]]").into_bytes()),
            Just(format!("[[DOTSCIENCE-RUN:{B}]]").into_bytes()),
            Just(format!("[[/DOTSCIENCE-RUN:{B}]]").into_bytes()),
            proptest::collection::vec(any::<u8>(), 0..40),
        ];
        proptest::collection::vec(fragment, 0..60).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn how_bytes_are_split_makes_no_difference(bytes in fragments(), sizes in proptest::collection::vec(1..50usize, 1..50)) {
            let mut pieces = Vec::new();
            let mut rest = bytes.as_slice();
            for size in sizes.iter().cycle() {
                if rest.is_empty() { break }
                let (piece, tail) = rest.split_at((*size).min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            prop_assert_eq!(items(pieces), items([bytes.as_slice()]));
        }

        #[test]
        fn a_valid_record_is_found_in_any_bytes(
            before in proptest::collection::vec(any::<u8>(), 0..200),
            json in "[^\\[]{0,200}",
            after in fragments(),
        ) {
            const ID: &str = "99999999-0c7e-4f5b-9d1a-2b6f0f6f7a11";
            let bytes = [&before, record(ID, &json).as_bytes(), &after].concat();
            let expected = found(ID, json.as_bytes());
            prop_assert!(items([bytes.as_slice()]).contains(&expected));
        }
    }
}

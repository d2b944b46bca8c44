//! Statements with a varying number of values, and rows to typed values.

use std::{fmt::Display, str::FromStr};

use serde::{Serialize, de::DeserializeOwned};
use sqlx::{
    Any, Arguments, AssertSqlSafe, Encode, Row, Type,
    any::{AnyArguments, AnyRow},
    query::Query,
};

use crate::{Error, Result};

/// Bytes of a name or path that an index holds; PostgreSQL refuses entries of more than 2,700 bytes.
pub(crate) const NAME_KEY_BYTES: usize = 500;
/// Bytes of a value that an index holds.
pub(crate) const TEXT_KEY_BYTES: usize = 200;
/// Rows in one `INSERT`. SQLite looks its parameters up by walking over all of them, so that a statement with thousands
/// of values takes seconds; many small ones in one transaction do not.
pub(crate) const ROWS: usize = 50;
/// Ids in one `IN (...)`, for the same reason.
pub(crate) const IDS: usize = 500;

/// A statement that is put together from parts; values go in as `$1`, `$2`, ..., never as text.
#[derive(Default)]
pub(crate) struct Sql {
    text: String,
    arguments: AnyArguments,
}

impl Sql {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), arguments: AnyArguments::default() }
    }

    pub(crate) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Adds a value and its placeholder.
    pub(crate) fn bind<T>(&mut self, value: T) -> &mut Self
    where
        T: for<'q> Encode<'q, Any> + Type<Any>,
    {
        self.arguments.add(value).expect("text, numbers and bytes can always be encoded");
        self.text.push('$');
        self.text.push_str(&self.arguments.len().to_string());
        self
    }

    /// Adds `(value, value, ...)`.
    pub(crate) fn bind_list<T: Display>(&mut self, values: &[T]) -> &mut Self {
        for (index, value) in values.iter().enumerate() {
            self.push(if index == 0 { "(" } else { ", " }).bind(value.to_string());
        }
        self.push(")")
    }

    /// One column of the rows as one text `numbers`, with commas, in the order of the rows.
    ///
    /// Both databases concatenate rows of a sorted subquery in its order, and tests hold them to it; an order within the
    /// aggregate would have SQLite sort once more what an index gave in order.
    pub(crate) fn concatenated(mut self, column: &str) -> Self {
        self.text =
            format!("SELECT STRING_AGG(CAST({column} AS TEXT), ',') AS numbers FROM ({}) ordered", self.text);
        self
    }

    #[cfg(test)]
    pub(crate) fn explained(mut self) -> Self {
        self.text.insert_str(0, "EXPLAIN QUERY PLAN ");
        self
    }

    /// The statement is not kept prepared: few are asked twice with the same number of values.
    pub(crate) fn query(self) -> Query<'static, Any, AnyArguments> {
        sqlx::query_with(AssertSqlSafe(self.text), self.arguments).persistent(false)
    }
}

/// Reads a column; `name` is a column of the statement.
pub(crate) trait Columns {
    fn text(&self, name: &'static str) -> Result<String>;
    fn optional_text(&self, name: &'static str) -> Result<Option<String>>;
    fn int(&self, name: &'static str) -> Result<i64>;
    fn optional_int(&self, name: &'static str) -> Result<Option<i64>>;

    fn size(&self, name: &'static str) -> Result<u64> {
        Ok(u64::try_from(self.int(name)?).unwrap_or(0))
    }

    fn flag(&self, name: &'static str) -> Result<bool> {
        Ok(self.int(name)? != 0)
    }

    /// An id, or another value that is text in the database.
    fn parsed<T: FromStr>(&self, name: &'static str) -> Result<T> {
        parse(name, self.text(name)?, |text| text.parse().ok())
    }

    fn optional_parsed<T: FromStr>(&self, name: &'static str) -> Result<Option<T>> {
        self.optional_text(name)?.map(|text| parse(name, text, |text| text.parse().ok())).transpose()
    }

    /// A word of an enum, read by its `parse`.
    fn word<T>(&self, name: &'static str, read: fn(&str) -> Option<T>) -> Result<T> {
        parse(name, self.text(name)?, read)
    }

    fn optional_word<T>(&self, name: &'static str, read: fn(&str) -> Option<T>) -> Result<Option<T>> {
        self.optional_text(name)?.map(|text| parse(name, text, read)).transpose()
    }

    fn json<T: DeserializeOwned>(&self, name: &'static str) -> Result<T> {
        parse(name, self.text(name)?, |text| serde_json::from_str(text).ok())
    }
}

fn parse<T>(what: &'static str, value: String, read: impl Fn(&str) -> Option<T>) -> Result<T> {
    read(&value).ok_or(Error::Corrupt { what, value })
}

impl Columns for AnyRow {
    fn text(&self, name: &'static str) -> Result<String> {
        Ok(self.try_get(name)?)
    }

    fn optional_text(&self, name: &'static str) -> Result<Option<String>> {
        Ok(self.try_get(name)?)
    }

    fn int(&self, name: &'static str) -> Result<i64> {
        Ok(self.try_get(name)?)
    }

    fn optional_int(&self, name: &'static str) -> Result<Option<i64>> {
        Ok(self.try_get(name)?)
    }
}

/// What a JSON column holds.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value)
        .expect("maps with text keys, lists and plain structs can always be written as JSON")
}

/// A size as the database keeps it.
pub(crate) fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// A text from another machine without NUL, which PostgreSQL keeps in no text.
pub(crate) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The start of a text, as an index holds it.
pub(crate) fn key(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}

/// Turns "that is taken already" into a conflict with these words.
pub(crate) fn taken(words: impl FnOnce() -> String) -> impl FnOnce(sqlx::Error) -> Error {
    move |error| match &error {
        sqlx::Error::Database(inner) if inner.is_unique_violation() => Error::Conflict(words()),
        _ => Error::Database(error),
    }
}

/// A page's cursor: opaque to whoever passes it back.
pub(crate) fn cursor<T: Serialize>(position: &T) -> String {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    BASE64_URL_SAFE_NO_PAD.encode(json(position))
}

/// Reads [`cursor`].
pub(crate) fn read_cursor<T: DeserializeOwned>(text: Option<&str>) -> Result<Option<T>> {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    let Some(text) = text else { return Ok(None) };
    let position =
        BASE64_URL_SAFE_NO_PAD.decode(text).ok().and_then(|json| serde_json::from_slice(&json).ok());
    position
        .map(Some)
        .ok_or_else(|| Error::Invalid(format!("{text:?} is no cursor of this list: start at its first page")))
}

/// The hyphenated start of an id, however it was typed; `None` if no id starts so.
pub(crate) fn id_prefix(typed: &str) -> Option<String> {
    let digits: String = typed.chars().filter(|&c| c != '-').collect::<String>().to_ascii_lowercase();
    if digits.is_empty() || digits.len() > 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut text = String::with_capacity(36);
    for (index, digit) in digits.chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_ids_are_read_with_and_without_hyphens() {
        assert_eq!(id_prefix("3F2C8A4E0C").as_deref(), Some("3f2c8a4e-0c"));
        assert_eq!(id_prefix("3f2c8a4e-0c").as_deref(), Some("3f2c8a4e-0c"));
        assert_eq!(id_prefix("3f2c8a4e"), Some("3f2c8a4e".into()));
        assert_eq!(id_prefix("x' OR 1=1"), None);
        assert_eq!(id_prefix(""), None);
    }

    #[test]
    fn a_cursor_that_was_made_up_is_refused() {
        let position = (17_i64, "x".to_owned());
        assert_eq!(read_cursor::<(i64, String)>(Some(&cursor(&position))).unwrap(), Some(position));
        assert!(matches!(read_cursor::<(i64, String)>(Some("!")), Err(Error::Invalid(_))));
    }

    #[test]
    fn keys_end_between_characters() {
        assert_eq!(key("aä", 2), "a");
        assert_eq!(key("aä", 3), "aä");
    }

    proptest! {
        #[test]
        fn no_cursor_makes_it_panic(text in any::<String>(), bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
            for text in [text, BASE64_URL_SAFE_NO_PAD.encode(bytes)] {
                // What is taken names a position, and every text is either taken or refused with words.
                match read_cursor::<(i64, String)>(Some(&text)) {
                    Ok(position) => prop_assert!(position.is_some()),
                    Err(error) => prop_assert!(matches!(error, Error::Invalid(_))),
                }
            }
        }

        #[test]
        fn a_cursor_is_read_as_it_was_given(number in any::<i64>(), text in any::<String>()) {
            let position = (number, text);
            prop_assert_eq!(read_cursor(Some(&cursor(&position))).unwrap(), Some(position));
        }

        #[test]
        fn an_id_prefix_holds_hex_and_hyphens_alone(typed in any::<String>(), id in any::<u128>(), length in 1..=36_usize) {
            if let Some(start) = id_prefix(&typed) {
                prop_assert!(start.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'));
            }
            let id = uuid::Uuid::from_u128(id).to_string();
            prop_assert!(id.starts_with(&id_prefix(&id[..length]).unwrap()));
        }
    }
}

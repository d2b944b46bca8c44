//! Files of other projects, as records name them.

use std::fmt;

use super::relative_path;

/// What a reference starts with.
const SCHEME: &str = "ds://";
/// What a client that tidies paths, as the original one does, makes of [`SCHEME`].
const TIDIED: &str = "ds:/";
/// Characters of a commit's id: what the API takes for the start of one, and a hyphenated id.
const VERSION_CHARS: std::ops::RangeInclusive<usize> = 4..=36;
/// Characters of a project's name.
const MAX_PROJECT_CHARS: usize = 100;

/// A file in some project's workspace: `ds://<project>/<path>`, or `ds://<project>/<path>@<commit>`.
///
/// In the path `%XX` stands for a byte, and `%` and `@` themselves are written `%25` and `%40`; every other character
/// stands for itself. The decoded path is UTF-8, its parts are not empty, `.` or `..`, and no `/` of it was encoded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileReference {
    /// The project's name, or its id.
    pub project: String,
    /// In that project's workspace; as [`relative_path`] writes it.
    pub path: String,
    /// A commit's id or the start of one, in lower case. Without it the newest version is meant.
    pub version: Option<String>,
}

impl FileReference {
    /// Whether a text is meant to name another project's file. A file below a folder `ds:` of the own workspace is
    /// `./ds:/...`.
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with(TIDIED)
    }

    /// Reads a reference, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = text
            .strip_prefix(SCHEME)
            .or_else(|| text.strip_prefix(TIDIED))
            .ok_or("it does not start with `ds://`")?;
        let (project, rest) =
            rest.split_once('/').ok_or("it names no file: write `ds://<project>/<path>`")?;
        let (path, version) = match rest.split_once('@') {
            Some((path, version)) => (path, Some(version)),
            None => (rest, None),
        };
        Ok(Self {
            project: project_name(project)?,
            path: decoded(path)?,
            version: version.map(commit_id).transpose()?,
        })
    }
}

impl fmt::Display for FileReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/", self.project)?;
        for character in self.path.chars() {
            match character {
                '%' => f.write_str("%25")?,
                '@' => f.write_str("%40")?,
                other => write!(f, "{other}")?,
            }
        }
        match &self.version {
            Some(version) => write!(f, "@{version}"),
            None => Ok(()),
        }
    }
}

fn project_name(name: &str) -> Result<String, &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > MAX_PROJECT_CHARS || !name.chars().all(fits) {
        return Err("what stands between `ds://` and the next `/` is no project's name");
    }
    Ok(name.to_owned())
}

fn commit_id(text: &str) -> Result<String, &'static str> {
    if text.contains('@') {
        return Err("it has two `@`: write one that is part of the path as `%40`");
    }
    if !VERSION_CHARS.contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
        return Err("what follows its `@` is no commit's id, nor the first 4 or more characters of one; \
            write an `@` that is part of the path as `%40`");
    }
    Ok(text.to_ascii_lowercase())
}

/// The path without its `%XX`.
fn decoded(text: &str) -> Result<String, &'static str> {
    if text.split('/').any(|part| matches!(part, "" | ".")) {
        return Err("a part of its path is empty or `.`");
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, after) = match first {
            b'%' => encoded_byte(after)?,
            plain => (*plain, after),
        };
        bytes.push(byte);
        rest = after;
    }
    let path = String::from_utf8(bytes).map_err(|_| "its path is not UTF-8 when decoded")?;
    let clean = relative_path(&path)?;
    if clean != path {
        return Err("a part of its path is empty or `.`");
    }
    Ok(path)
}

/// The byte that two digits after a `%` stand for, and what follows them.
fn encoded_byte(after: &[u8]) -> Result<(u8, &[u8]), &'static str> {
    let wrong =
        "a `%` of its path is not followed by two hexadecimal digits: write the character `%` as `%25`";
    let (digits, after) = after.split_at_checked(2).ok_or(wrong)?;
    let digit = |at: usize| char::from(digits[at]).to_digit(16).ok_or(wrong);
    match digit(0)? * 16 + digit(1)? {
        0x2f => Err("it contains `%2F`, and no name of a file contains a slash"),
        byte => Ok((u8::try_from(byte).expect("two hexadecimal digits are at most 255"), after)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reference(project: &str, path: &str, version: Option<&str>) -> FileReference {
        FileReference { project: project.into(), path: path.into(), version: version.map(str::to_owned) }
    }

    #[test]
    fn project_path_and_commit_are_read() {
        for (text, expected) in [
            ("ds://prices/data.csv", reference("prices", "data.csv", None)),
            ("ds://prices/a/b c ä.csv@1A2B3C4D", reference("prices", "a/b c ä.csv", Some("1a2b3c4d"))),
            ("ds://p.1-x_/50%25%40home", reference("p.1-x_", "50%@home", None)),
            ("ds://p/%C3%a4?q#f", reference("p", "ä?q#f", None)),
            // As `os.path.relpath` leaves it.
            ("ds:/prices/data.csv@1a2b", reference("prices", "data.csv", Some("1a2b"))),
        ] {
            assert_eq!(FileReference::parse(text), Ok(expected.clone()), "{text}");
            assert!(FileReference::is_meant_by(text));
            assert_eq!(FileReference::parse(&expected.to_string()), Ok(expected));
        }
        for own in ["data.csv", "./ds:/x", "ds:x", "a/ds://p/x", "DS://p/x"] {
            assert!(!FileReference::is_meant_by(own), "{own}");
        }
    }

    #[test]
    fn what_names_no_file_is_refused_with_a_reason() {
        for (text, why) in [
            ("ds://", "names no file"),
            ("ds://prices", "names no file"),
            ("ds://prices/", "empty"),
            ("ds:///data.csv", "no project's name"),
            ("ds://a b/data.csv", "no project's name"),
            ("ds://%61/data.csv", "no project's name"),
            ("ds://p/../secret", ".."),
            ("ds://p/%2e%2e/secret", ".."),
            ("ds://p/a/%2e/b", "`.`"),
            ("ds://p//a", "empty"),
            ("ds://p/a/", "empty"),
            ("ds://p/a%2fb", "%2F"),
            ("ds://p/a%00", "NUL"),
            ("ds://p/100%", "%25"),
            ("ds://p/%zz", "%25"),
            ("ds://p/%+1", "%25"),
            ("ds://p/%ff", "UTF-8"),
            ("ds://p/a@b@1a2b", "%40"),
            ("ds://p/a@", "no commit's id"),
            ("ds://p/a@123", "no commit's id"),
            ("ds://p/ann@home.csv", "%40"),
        ] {
            let told = FileReference::parse(text).unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), tail in "[a/%@.0-9f]{0,20}") {
            let _ = FileReference::parse(&text);
            let _ = FileReference::parse(&format!("ds://p/{tail}"));
            let _ = FileReference::parse(&format!("ds:/{text}"));
        }

        #[test]
        fn every_reference_is_read_as_it_was_written(
            project in "[a-zA-Z0-9._-]{1,20}", path in any::<String>(), version in proptest::option::of("[0-9a-f-]{4,36}"),
        ) {
            let Ok(path) = relative_path(&path) else { return Ok(()) };
            let written = FileReference { project, path, version };
            prop_assert_eq!(FileReference::parse(&written.to_string()), Ok(written));
        }

        #[test]
        fn what_is_accepted_stays_in_the_workspace(tail in "(a|/|\\.|%2e|%2f|%|@|b){0,12}") {
            if let Ok(read) = FileReference::parse(&format!("ds://p/{tail}")) {
                prop_assert_eq!(relative_path(&read.path), Ok(read.path.clone()));
                prop_assert_eq!(FileReference::parse(&read.to_string()), Ok(read));
            }
        }
    }
}

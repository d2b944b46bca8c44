//! A tree from what ZFS lists.

use std::collections::HashMap;

use super::tree::{Bookmark, Dataset, HalfReceived, Origin, Snapshot, Tree};
use crate::{Features, Implementation, MODE_PROPERTY, SnapshotGuid, StreamMode};

/// The properties that a listing must ask for, as far as this machine's ZFS has them.
pub fn properties(features: &Features) -> &'static str {
    match features.implementation {
        Implementation::OpenZfs => {
            "type,guid,createtxg,creation,origin,userrefs,clones,encryption,ivsetguid,receive_resume_token,dotstream:stream"
        }
        Implementation::ZfsFuse => "type,guid,createtxg,creation,origin,userrefs",
    }
}

/// A listing that is not what was asked for; nothing should be decided by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the listing of {root} holds a line that cannot be read: {line:?}")]
pub struct BadListing {
    /// What was listed.
    pub root: String,
    /// What came.
    pub line: String,
}

/// Builds a [`Tree`] from the lines of `zfs get -Hp -r -o name,property,value <properties> <root>`, line by line.
///
/// (`zfs list` would be shorter, but zfs-fuse's knows no `-p`; and here every line says what it is.)
#[derive(Debug)]
pub struct Listing {
    root: String,
    token_guid: fn(&str) -> Option<SnapshotGuid>,
    datasets: Vec<Dataset>,
    /// Where in `datasets` a path is.
    positions: HashMap<String, usize>,
    /// What the last lines were about.
    current: Option<Row>,
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent property")]
struct Row {
    name: String,
    guid: Option<u64>,
    created_txg: u64,
    created_s: i64,
    origin: Option<String>,
    held: bool,
    cloned: bool,
    encrypted: bool,
    ivset: Option<u64>,
    token: Option<String>,
    disk: bool,
    mode: Option<StreamMode>,
}

impl Listing {
    /// For the tree below the dataset `root`. `token_guid` reads out of a resume token which snapshot it is for.
    pub fn new(root: &str, token_guid: fn(&str) -> Option<SnapshotGuid>) -> Self {
        Self {
            root: root.to_owned(),
            token_guid,
            datasets: Vec::new(),
            positions: HashMap::new(),
            current: None,
        }
    }

    /// Takes one line.
    pub fn push(&mut self, line: &str) -> Result<(), BadListing> {
        let mut columns = line.split('\t');
        let (Some(name), Some(property), Some(value), None) =
            (columns.next(), columns.next(), columns.next(), columns.next())
        else {
            return Err(self.bad(line));
        };
        if self.current.as_ref().is_none_or(|row| row.name != name) {
            self.end_row()?;
            self.current = Some(Row { name: name.to_owned(), ..Row::default() });
        }
        let row = self.current.as_mut().expect("it was set above");
        row.set(property, value).ok_or_else(|| self.bad(line))
    }

    /// The tree. Lists nothing where nothing was listed: a root that does not exist.
    pub fn finish(mut self) -> Result<Tree, BadListing> {
        self.end_row()?;
        Ok(Tree::new(self.datasets))
    }

    fn end_row(&mut self) -> Result<(), BadListing> {
        let Some(row) = self.current.take() else { return Ok(()) };
        let (dataset, mark) = match row.name.find(['@', '#']) {
            Some(at) => (&row.name[..at], Some(&row.name[at..])),
            None => (row.name.as_str(), None),
        };
        let Some(path) = below(&self.root, dataset).map(str::to_owned) else {
            return Err(self.bad(&row.name));
        };
        // What was destroyed while it was listed has no GUID any more, and is not there.
        let Some(guid) = row.guid.map(SnapshotGuid) else { return Ok(()) };
        let at = self.position(path);
        match mark {
            None => self.fill(at, row),
            Some(mark) => add_mark(&mut self.datasets[at], mark, guid, &row),
        }
        Ok(())
    }

    /// A listing may name a snapshot before its dataset.
    fn position(&mut self, path: String) -> usize {
        if let Some(at) = self.datasets.len().checked_sub(1)
            && self.datasets[at].path == path
        {
            return at;
        }
        let next = self.datasets.len();
        let at = *self.positions.entry(path.clone()).or_insert(next);
        if at == next {
            self.datasets.push(Dataset { path, ..Dataset::default() });
        }
        at
    }

    fn fill(&mut self, at: usize, row: Row) {
        let origin = row.origin.as_deref().and_then(|origin| origin.split_once('@'));
        let inside = origin.and_then(|(dataset, snapshot)| Some((below(&self.root, dataset)?, snapshot)));
        let dataset = &mut self.datasets[at];
        dataset.origin =
            inside.map(|(path, snapshot)| Origin { path: path.to_owned(), snapshot: snapshot.to_owned() });
        dataset.encrypted = row.encrypted;
        dataset.disk = row.disk;
        dataset.mode = row.mode;
        let guid_of = self.token_guid;
        dataset.half_received = row.token.map(|token| HalfReceived { guid: guid_of(&token), token });
    }

    fn bad(&self, line: &str) -> BadListing {
        BadListing { root: self.root.clone(), line: line.to_owned() }
    }
}

impl Row {
    /// `None` for a value that cannot be one of the property.
    fn set(&mut self, property: &str, value: &str) -> Option<()> {
        if matches!(value, "-" | "") {
            return Some(());
        }
        match property {
            "guid" => self.guid = Some(value.parse().ok()?),
            "createtxg" => self.created_txg = value.parse().ok()?,
            "creation" => self.created_s = value.parse().ok()?,
            "origin" => self.origin = Some(value.to_owned()),
            "userrefs" => self.held = value.parse::<u64>().ok()? > 0,
            "clones" => self.cloned = true,
            "encryption" => self.encrypted = value != "off",
            // Bookmarks of what is not encrypted say 0.
            "ivsetguid" => self.ivset = Some(value.parse().ok()?).filter(|ivset| *ivset != 0),
            "type" => self.disk = value == "volume",
            MODE_PROPERTY => self.mode = value.parse().ok(),
            "receive_resume_token" => self.token = Some(value.to_owned()),
            _ => return None,
        }
        Some(())
    }
}

fn add_mark(dataset: &mut Dataset, mark: &str, guid: SnapshotGuid, row: &Row) {
    let (kind, name) = mark.split_at(1);
    if kind == "@" {
        dataset.snapshots.push(Snapshot {
            name: name.to_owned(),
            guid,
            created_txg: row.created_txg,
            created_s: row.created_s,
            ivset: row.ivset,
            held: row.held,
            cloned: row.cloned,
        });
    } else {
        let bookmark =
            Bookmark { name: name.to_owned(), guid, created_txg: row.created_txg, ivset: row.ivset };
        dataset.bookmarks.push(bookmark);
    }
}

/// A dataset's path relative to `root`, if it is there or below.
fn below<'a>(root: &str, dataset: &'a str) -> Option<&'a str> {
    match dataset.strip_prefix(root)? {
        "" => Some(""),
        rest => rest.strip_prefix('/'),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LISTED: &str = "tank/d\tguid\t1
tank/d\tcreatetxg\t5
tank/d\tcreation\t100
tank/d\torigin\t-
tank/d\tencryption\toff
tank/d\treceive_resume_token\t-
tank/d@a\tguid\t18446744073709551615
tank/d@a\tcreatetxg\t9
tank/d@a\tcreation\t1700000000
tank/d@a\tuserrefs\t2
tank/d@a\tclones\ttank/d/c
tank/d#a\tguid\t18446744073709551615
tank/d#a\tcreatetxg\t9
tank/d#a\tivsetguid\t0
tank/d/c\tguid\t2
tank/d/c\torigin\ttank/d@a
tank/d/c\tencryption\taes-256-gcm
tank/d/c\treceive_resume_token\t1-7b-e8
tank/d/c@late\tguid\t-
tank/d/other\tguid\t3
tank/d/other\torigin\ttank/elsewhere@x
";

    fn read(root: &str, text: &str) -> Result<Tree, BadListing> {
        let mut listing = Listing::new(root, |token| Some(SnapshotGuid(token.len() as u64)));
        text.lines().try_for_each(|line| listing.push(line))?;
        listing.finish()
    }

    #[test]
    fn a_tree_is_read_with_all_that_decides() {
        let tree = read("tank/d", LISTED).unwrap();
        let paths: Vec<&str> = tree.datasets().iter().map(|dataset| dataset.path.as_str()).collect();
        assert_eq!(paths, ["", "c", "other"]);
        let root = tree.dataset("").unwrap();
        let snapshot = &root.snapshots[0];
        assert_eq!((snapshot.name.as_str(), snapshot.guid), ("a", SnapshotGuid(u64::MAX)));
        assert_eq!((snapshot.created_txg, snapshot.created_s), (9, 1_700_000_000));
        assert!(snapshot.held && snapshot.cloned && !root.encrypted);
        assert_eq!((root.bookmarks[0].name.as_str(), root.bookmarks[0].created_txg), ("a", 9));
        assert_eq!(root.bookmarks[0].ivset, None);
        let clone = tree.dataset("c").unwrap();
        assert_eq!(clone.origin, Some(Origin { path: String::new(), snapshot: "a".into() }));
        assert!(clone.encrypted && clone.snapshots.is_empty(), "@late went while it was listed");
        assert_eq!(clone.half_received.as_ref().unwrap().guid, Some(SnapshotGuid(7)));
        assert_eq!(tree.dataset("other").unwrap().origin, None);
        assert_eq!(tree.origin_of(clone).unwrap().name, "a");
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        for wrong in
            ["tank/d\tguid\tabc", "tank/d\tguid", "tank/d\tguid\t1\t2", "tank/dx\tguid\t1", "tank/d\tused\t1"]
        {
            let error = read("tank/d", wrong).unwrap_err().to_string();
            assert!(error.contains("tank/d"), "{error}");
        }
        assert_eq!(read("tank/d", "").unwrap(), Tree::default());
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(lines in proptest::collection::vec("(t|t/a|t/b|x)?[@#]?[ab]{0,2}\t(guid|clones|origin|creation|x)?\t[t@/0-9-]{0,5}\t?", 0..12)) {
            let _ = read("t", &lines.join("\n"));
        }
    }
}

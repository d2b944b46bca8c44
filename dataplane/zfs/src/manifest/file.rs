//! A manifest in a file: a magic line, then for each entry its facts and its path, then the digest of all before it.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::Path,
};

use super::{Entry, EntryKind, Facts, LONGEST_PATH, Manifest};
use crate::{Error, Result};

const MAGIC: &[u8; 16] = b"ds manifest v1\r\n";
const DIGEST_BYTES: usize = 32;
/// In place of a kind: the digest follows.
const END: u8 = b'.';

impl Manifest {
    /// Writes it to a file, durably and in one piece: a crash leaves the old file or the new one.
    pub fn write(&self, path: &Path) -> Result<()> {
        let written = || -> io::Result<()> {
            let unfinished = path.with_extension("new");
            let mut out =
                Hashed { inner: BufWriter::new(File::create(&unfinished)?), hasher: blake3::Hasher::new() };
            self.write_to(&mut out)?;
            let digest = out.hasher.finalize();
            out.inner.write_all(digest.as_bytes())?;
            out.inner.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            std::fs::rename(&unfinished, path)
        };
        written().map_err(Error::io(format!("write the manifest {}", path.display())))
    }

    /// Reads what [`Manifest::write`] wrote; [`Error::InvalidManifest`] for anything else.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(format!("open the manifest {}", path.display())))?;
        match Self::read_from(BufReader::new(file)) {
            Ok(Some(manifest)) => Ok(manifest),
            Ok(None) => Err(Error::InvalidManifest { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(Error::InvalidManifest { path: path.to_owned() })
            }
            Err(source) => Err(Error::io(format!("read the manifest {}", path.display()))(source)),
        }
    }

    fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(MAGIC)?;
        for Entry { path, facts } in &self.entries {
            let length = u32::try_from(path.len()).map_err(|_| io::Error::other("a path of 4 GiB"))?;
            out.write_all(&[kind_byte(facts.kind)])?;
            out.write_all(&facts.size.to_le_bytes())?;
            out.write_all(&facts.modified_ns.to_le_bytes())?;
            out.write_all(&facts.changed_ns.to_le_bytes())?;
            out.write_all(&facts.inode.to_le_bytes())?;
            out.write_all(&facts.target.to_le_bytes())?;
            out.write_all(&length.to_le_bytes())?;
            out.write_all(path)?;
        }
        out.write_all(&[END])
    }

    /// `None` for bytes that are no manifest.
    pub(super) fn read_from(source: impl Read) -> io::Result<Option<Self>> {
        let mut source = Hashed { inner: source, hasher: blake3::Hasher::new() };
        if source.array()? != *MAGIC {
            return Ok(None);
        }
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let [kind] = source.array()?;
            if kind == END {
                break;
            }
            let Some(entry) = read_entry(kind, &mut source)? else { return Ok(None) };
            if entries.last().is_some_and(|last| last.path >= entry.path) {
                return Ok(None);
            }
            entries.push(entry);
        }
        let expected = source.hasher.finalize();
        let found: [u8; DIGEST_BYTES] = source.array()?;
        Ok((expected == found).then_some(Self { entries }))
    }
}

fn read_entry(kind: u8, source: &mut Hashed<impl Read>) -> io::Result<Option<Entry>> {
    let kind = match kind {
        b'f' => EntryKind::File,
        b'l' => EntryKind::Link,
        b'o' => EntryKind::Other,
        _ => return Ok(None),
    };
    let facts = Facts {
        kind,
        size: u64::from_le_bytes(source.array()?),
        modified_ns: i128::from_le_bytes(source.array()?),
        changed_ns: i128::from_le_bytes(source.array()?),
        inode: u64::from_le_bytes(source.array()?),
        target: u64::from_le_bytes(source.array()?),
    };
    let length = u32::from_le_bytes(source.array()?) as usize;
    if length > LONGEST_PATH {
        return Ok(None);
    }
    let mut path = vec![0; length];
    source.read_exact(&mut path)?;
    source.hasher.update(&path);
    Ok(Some(Entry { path: path.into(), facts }))
}

fn kind_byte(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::File => b'f',
        EntryKind::Link => b'l',
        EntryKind::Other => b'o',
    }
}

/// Digests what passes through it.
struct Hashed<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<R: Read> Hashed<R> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.read_exact(bytes)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

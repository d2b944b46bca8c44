//! Reads a tar from a stream, member by member, in bounded memory.
//!
//! The tar crate's own iterator reads the headers that carry long names whole, however long they say they are, and the maps
//! of sparse files likewise. Here such a header is refused when it is longer than [`MAX_EXTENSION_BYTES`].

use std::{
    borrow::Cow,
    ffi::OsStr,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use tar::{EntryType, Header, PaxExtensions};

const BLOCK_BYTES: usize = 512;

/// Names and attributes of one member. Linux allows names of 4 KiB.
pub(super) const MAX_EXTENSION_BYTES: u64 = 64 << 10;

/// What stands before a file's content.
pub(super) struct Member {
    pub(super) kind: EntryType,
    pub(super) path: PathBuf,
    /// What a link points to.
    pub(super) target: Option<PathBuf>,
    /// Of the content.
    pub(super) size: u64,
    pub(super) header: Header,
}

/// The members of an archive; read the content of the last one from this itself.
pub(super) struct Members<R> {
    source: R,
    /// Of the content, and of what fills its last block.
    left: u64,
    padding: u64,
}

/// What headers before a member say of it.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<R: Read> Members<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, left: 0, padding: 0 }
    }

    /// Skips what is left of the last member and gives the next; `None` at the archive's end.
    pub(super) fn next(&mut self) -> io::Result<Option<Member>> {
        let mut said = Extensions::default();
        let mut anything_said = false;
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                return if anything_said {
                    Err(invalid("it ends after the name of a file"))
                } else {
                    Ok(None)
                };
            };
            let kind = header.entry_type();
            self.begin(header.entry_size()?);
            match kind {
                EntryType::GNULongName => said.path = Some(without_nul(self.extension()?)),
                EntryType::GNULongLink => said.target = Some(without_nul(self.extension()?)),
                EntryType::XHeader => said.read_pax(&self.extension()?)?,
                EntryType::XGlobalHeader => continue,
                _ => {
                    self.begin(said.size.unwrap_or(self.left));
                    return said.member(header, self.left).map(Some);
                }
            }
            anything_said = true;
        }
    }

    /// What follows the archive's end.
    pub(super) fn into_inner(self) -> R {
        self.source
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK_BYTES as u64).wrapping_sub(size);
    }

    fn extension(&mut self) -> io::Result<Vec<u8>> {
        if self.left > MAX_EXTENSION_BYTES {
            return Err(invalid(format!(
                "a name or attributes of {} bytes, more than the {MAX_EXTENSION_BYTES} that are allowed",
                self.left
            )));
        }
        let expected = self.left;
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        if bytes.len() as u64 == expected { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn skip(&mut self) -> io::Result<()> {
        let rest = self.left.saturating_add(self.padding);
        (self.left, self.padding) = (0, 0);
        if io::copy(&mut self.source.by_ref().take(rest), &mut io::sink())? < rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// `None` at the end: a block of zeros, or nothing more.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < block.len() {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if block == [0; BLOCK_BYTES] {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        // The sum is made with blanks in its own place.
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        if sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]) != header.cksum()? {
            return Err(invalid("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }
}

/// The content of the last member.
impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.by_ref().take(self.left).read(buffer)?;
        self.left -= read as u64;
        Ok(read)
    }
}

impl Extensions {
    fn read_pax(&mut self, records: &[u8]) -> io::Result<()> {
        for record in PaxExtensions::new(records) {
            let record = record?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.target = Some(value.to_vec()),
                b"size" => {
                    let size = record.value().ok().and_then(|size| size.parse().ok());
                    self.size = Some(size.ok_or_else(|| invalid("a size that is no number"))?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(invalid("sparse files: make the archive without --sparse"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn member(self, header: Header, size: u64) -> io::Result<Member> {
        let path = match self.path {
            Some(path) => path_of(&path),
            None => header.path()?.into_owned(),
        };
        let target = match self.target {
            Some(target) => Some(path_of(&target)),
            None => header.link_name()?.map(Cow::into_owned),
        };
        let kind = match header.entry_type() {
            // As old programs mark a folder.
            EntryType::Regular if path.as_os_str().as_bytes().ends_with(b"/") => EntryType::Directory,
            kind => kind,
        };
        Ok(Member { kind, path, target, size, header })
    }
}

fn path_of(bytes: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(bytes)).to_owned()
}

fn without_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

//! What survives a `kill -9`: one folder for each task that this runner holds.
//!
//! ```text
//! <state>/tasks/<task>/journal.json   what was asked, and how far it is; replaced atomically
//!                      manifest       the clone's files before the command ran
//!                      result         the TaskFinished, as far as it is known (protobuf)
//!                      git/           the git folder of a checkout; never inside the workspace
//! ```
//! A task exists exactly while its `journal.json` does: it is written before the hub gets an answer and removed after
//! everything else of the task is gone.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use ds_domain::TaskId;
use ds_proto::v1;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    spec::Spec,
};

/// The version of [`Entry`]; raised when an older program would misread it.
const VERSION: u32 = 1;

/// How far a task is. Each stage can be repeated from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Workspace, repository, image and container are made. The container was never started.
    Preparing,
    /// The container may have been started: it is never started from a new one again.
    Running,
    /// The command is over or cannot run, `result` has its outcome; the clone is to be kept.
    Committing,
    /// `result` is complete and waits for the hub's acknowledgement.
    Finished,
}

/// Why the runner ended a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stop {
    /// A person asked.
    Cancelled,
    /// The time limit.
    TimedOut,
    /// The limit of its log.
    LogTooLong,
}

/// The content of `journal.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    version: u32,
    pub(crate) spec: Spec,
    pub(crate) stage: Stage,
    /// Set before the command is told to end.
    pub(crate) stop: Option<Stop>,
    /// What `spec.image` was when the container was made.
    pub(crate) image_digest: String,
    /// The commit that was checked out.
    pub(crate) git_commit: Option<String>,
}

/// The journal of one task.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    entry: Entry,
}

/// All journals of a runner.
#[derive(Debug)]
pub(crate) struct Journals {
    dir: PathBuf,
    /// Held as long as this lives: two processes would undo each other's work.
    _lock: File,
}

impl Journals {
    /// Opens the folder, and drops what a crash left of a journal that was being made or removed.
    pub(crate) fn open(state_dir: &Path) -> Result<Self> {
        let dir = state_dir.join("tasks");
        fs::create_dir_all(&dir).map_err(file("create", &dir))?;
        let path = state_dir.join("lock");
        let lock = File::create(&path).map_err(file("create", &path))?;
        lock.try_lock().map_err(|_| Error::Running { dir: state_dir.to_owned() })?;
        for folder in folders(&dir)? {
            if !folder.join(JOURNAL).exists() {
                fs::remove_dir_all(&folder).map_err(file("remove", &folder))?;
            }
        }
        Ok(Self { dir, _lock: lock })
    }

    /// Writes the first entry of a task. Returns only when it is durable.
    pub(crate) async fn create(&self, spec: Spec) -> Result<Journal> {
        let dir = self.dir.join(spec.task.to_string());
        fs::create_dir_all(&dir).map_err(file("create", &dir))?;
        let stage = Stage::Preparing;
        let entry = Entry {
            version: VERSION,
            spec,
            stage,
            stop: None,
            image_digest: String::new(),
            git_commit: None,
        };
        let journal = Journal { dir, entry };
        journal.write().await?;
        let all = self.dir.clone();
        blocking(move || sync_dir(&all)).await?;
        Ok(journal)
    }

    /// Reads all journals. One that cannot be read is an error: without it, what its task holds would look like an orphan.
    pub(crate) fn load(&self) -> Result<Vec<Journal>> {
        // A folder without a journal is one that is being made or removed.
        let journals = folders(&self.dir)?.into_iter().map(Journal::read).filter(|read| match read {
            Err(Error::File { source, .. }) => source.kind() != io::ErrorKind::NotFound,
            _ => true,
        });
        journals.collect()
    }
}

const JOURNAL: &str = "journal.json";

impl Journal {
    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    pub(crate) fn spec(&self) -> &Spec {
        &self.entry.spec
    }

    pub(crate) fn task(&self) -> TaskId {
        self.entry.spec.task
    }

    /// Changes the entry. Returns only when the change is durable.
    pub(crate) async fn update(&mut self, change: impl FnOnce(&mut Entry)) -> Result<()> {
        let before = self.entry.clone();
        change(&mut self.entry);
        // What is in memory never says more than what is on disk.
        self.write().await.inspect_err(|_| self.entry = before)
    }

    /// Writes the outcome as far as it is known. Returns only when it is durable.
    pub(crate) async fn write_result(&self, result: &v1::TaskFinished) -> Result<()> {
        replace(self.dir.join("result"), result.encode_to_vec()).await
    }

    /// Reads what [`Journal::write_result`] wrote.
    pub(crate) fn read_result(&self) -> Result<v1::TaskFinished> {
        let path = self.dir.join("result");
        let bytes = fs::read(&path).map_err(file("read", &path))?;
        v1::TaskFinished::decode(bytes.as_slice()).map_err(|e| Error::Journal { path, reason: e.to_string() })
    }

    /// Where the list of the clone's files lies, as it was before anything was written into the clone.
    pub(crate) fn manifest(&self) -> PathBuf {
        self.dir.join("manifest")
    }

    /// Whether that list was written: the clone was untouched until then.
    pub(crate) fn has_manifest(&self) -> bool {
        self.manifest().exists()
    }

    /// Where the git folder of a checkout lies.
    pub(crate) fn git_dir(&self) -> PathBuf {
        self.dir.join("git")
    }

    /// Removes all of it; `journal.json` first, so that half of it is nothing.
    pub(crate) fn remove(&self) -> Result<()> {
        let path = self.dir.join(JOURNAL);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(file("remove", &path)(e)),
            _ => {}
        }
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(file("remove", &self.dir)(e)),
            _ => Ok(()),
        }
    }

    fn read(dir: PathBuf) -> Result<Self> {
        let path = dir.join(JOURNAL);
        let bytes = fs::read(&path).map_err(file("read", &path))?;
        let entry = parse(&bytes).map_err(|reason| Error::Journal { path, reason })?;
        Ok(Self { dir, entry })
    }

    async fn write(&self) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(&self.entry).expect("an entry has only string keys");
        replace(self.dir.join(JOURNAL), bytes).await
    }
}

/// Reads the content of a `journal.json`; the error says what is wrong with it.
fn parse(bytes: &[u8]) -> std::result::Result<Entry, String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    // Before the rest, which another version may have otherwise.
    let Version { version } = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if version != VERSION {
        return Err(format!("it has version {version}, this is version {VERSION}"));
    }
    serde_json::from_slice(bytes).map_err(|e| e.to_string())
}

/// Replaces a file: after a crash it has the old content or the new one, whole.
pub(crate) async fn replace(path: PathBuf, bytes: Vec<u8>) -> Result<()> {
    blocking(move || {
        let new = path.with_extension("new");
        let write = || {
            let mut handle = File::create(&new)?;
            handle.write_all(&bytes)?;
            handle.sync_all()?;
            fs::rename(&new, &path)
        };
        write().map_err(file("write", &path))?;
        sync_dir(path.parent().expect("a file of the state lies in a folder"))
    })
    .await
}

/// An fsync may take seconds on a busy disk: it must not hold up a thread that heartbeats need.
async fn blocking(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    tokio::task::spawn_blocking(work).await.expect("writing a file does not panic and is not aborted")
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|handle| handle.sync_all()).map_err(file("write", dir))
}

fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = || fs::read_dir(dir)?.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>();
    Ok(read().map_err(file("read", dir))?.into_iter().filter(|path| path.is_dir()).collect())
}

fn file(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { doing, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::tests::start;

    fn spec() -> Spec {
        Spec::from_start(start("python", &["python", "train.py"])).unwrap()
    }

    #[tokio::test]
    async fn what_was_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let journals = Journals::open(dir.path()).unwrap();
        let mut journal = journals.create(spec()).await.unwrap();
        journal.update(|entry| entry.stage = Stage::Running).await.unwrap();
        journal
            .write_result(&v1::TaskFinished { log_bytes: 7, ..v1::TaskFinished::default() })
            .await
            .unwrap();

        let said = Journals::open(dir.path()).unwrap_err().to_string();
        assert!(said.contains("another runner"), "{said}");
        let again = journals.load().unwrap();
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].entry(), journal.entry());
        assert_eq!(again[0].read_result().unwrap().log_bytes, 7);

        journal.remove().unwrap();
        journal.remove().unwrap();
        assert!(journals.load().unwrap().is_empty());
    }

    #[tokio::test]
    async fn half_of_a_journal_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let journals = Journals::open(dir.path()).unwrap();
        let journal = journals.create(spec()).await.unwrap();
        fs::rename(journal.dir.join(JOURNAL), journal.dir.join("journal.new")).unwrap();
        drop(journals);
        assert!(Journals::open(dir.path()).unwrap().load().unwrap().is_empty());
        assert!(!journal.dir.exists());
    }

    #[tokio::test]
    async fn a_newer_or_broken_journal_stops_the_runner() {
        let dir = tempfile::tempdir().unwrap();
        let journals = Journals::open(dir.path()).unwrap();
        let journal = journals.create(spec()).await.unwrap();
        for content in ["{\"version\": 99}", "{", ""] {
            fs::write(journal.dir.join(JOURNAL), content).unwrap();
            let error = journals.load().unwrap_err().to_string();
            assert!(error.contains("journal.json") && error.contains("move the file away"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_change_that_could_not_be_written_did_not_happen() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journals::open(dir.path()).unwrap().create(spec()).await.unwrap();
        fs::remove_dir_all(&journal.dir).unwrap();
        journal.update(|entry| entry.stage = Stage::Running).await.unwrap_err();
        assert_eq!(journal.entry().stage, Stage::Preparing);
    }

    /// A journal as it lies on disk.
    fn written() -> Vec<u8> {
        let (version, spec, image_digest) = (VERSION, spec(), "sha256:0".into());
        let entry =
            Entry { version, spec, stage: Stage::Running, stop: None, image_digest, git_commit: None };
        serde_json::to_vec_pretty(&entry).unwrap()
    }

    proptest! {
        #[test]
        fn bytes_that_are_no_journal_are_refused_in_words(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(!parse(&bytes).unwrap_err().is_empty());
        }

        #[test]
        fn a_journal_that_was_cut_or_damaged_is_refused_or_whole(cut in any::<prop::sample::Index>(), byte: u8) {
            let whole = written();
            let at = cut.index(whole.len());
            prop_assert!(!parse(&whole[..at]).unwrap_err().is_empty());
            // Another byte may still be a journal, of another command say; never a panic.
            let mut damaged = whole.clone();
            damaged[at] = byte;
            let _ = parse(&damaged);
        }
    }
}

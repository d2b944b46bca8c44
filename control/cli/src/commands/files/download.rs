//! Files of a commit, onto this machine.
//!
//! The names come from another machine, and whoever wrote them may mean harm: nothing is written outside the chosen
//! folder, neither by a name nor through a link that lies in it.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use ds_domain::api::{FileEntry, FileKind};
use futures_util::StreamExt;
use indicatif::ProgressBar;

use super::entries;
use crate::{context::Context, output::text, progress};

/// Downloads the file or folder `path` of a commit into the folder `into`, under its own last name.
pub(super) async fn get(context: &Context, commit: &str, path: &str, into: &Path) -> Result<()> {
    let files = wanted(context, commit, path).await?;
    // `models/v1` becomes `INTO/v1`: what is above the last name is left out.
    let above = path.rfind('/').map_or(0, |slash| slash + 1);
    let total = files.iter().map(|file| file.size_bytes).sum();
    let bar = progress::bytes(total, "downloading");
    let (mut count, mut skipped) = (0, 0);
    for file in &files {
        let relative = file.path.get(above..).unwrap_or(&file.path);
        match file.kind {
            FileKind::Folder => drop(make_folder(into, Path::new(relative))?),
            FileKind::File => {
                fetch(context, commit, file, into, Path::new(relative), &bar).await?;
                count += 1;
            }
            FileKind::Link | FileKind::Other => skipped += 1,
        }
    }
    bar.finish_and_clear();
    let files = text::count(count, "file");
    context.out.note(format_args!("{files}, {}, in {}", text::size(total), into.display()));
    if skipped > 0 {
        context.out.warn(format_args!(
            "{} left out: links and devices are not downloaded",
            text::count(skipped, "name")
        ));
    }
    Ok(())
}

/// The entry of `path`, with all below it where it is a folder.
async fn wanted(context: &Context, commit: &str, path: &str) -> Result<Vec<FileEntry>> {
    if path.is_empty() {
        return Ok(entries(context, commit, "", true).await?.items);
    }
    let parent = path.rfind('/').map_or("", |slash| &path[..slash]);
    let siblings = entries(context, commit, parent, false).await?;
    let Some(entry) = siblings.items.into_iter().find(|entry| entry.path == path) else {
        bail!("there is no {path:?} at commit {}: see `ds files ls`", text::short(commit));
    };
    match entry.kind {
        FileKind::File => Ok(vec![entry]),
        FileKind::Folder => {
            let mut all = entries(context, commit, path, true).await?.items;
            all.insert(0, entry);
            Ok(all)
        }
        FileKind::Link | FileKind::Other => {
            bail!("{path:?} is a link or a device: only files and folders are downloaded")
        }
    }
}

async fn fetch(
    context: &Context,
    commit: &str,
    file: &FileEntry,
    into: &Path,
    relative: &Path,
    bar: &ProgressBar,
) -> Result<()> {
    let name = relative.file_name().with_context(|| format!("{:?} is no name for a file", file.path))?;
    let folder = make_folder(into, relative.parent().unwrap_or(Path::new("")))?;
    let cannot_write = || format!("cannot write {}", folder.join(name).display());
    // Permissions as for any new file here; the umask takes its share.
    let mut builder = tempfile::Builder::new();
    builder.prefix(".ds-").permissions(fs::Permissions::from_mode(0o666));
    let mut target = builder.tempfile_in(&folder).with_context(cannot_write)?;
    let call = context.client.get(&["commits", commit, "content"]).query("path", &file.path);
    let mut bytes = call.bytes().await?;
    let mut received = 0;
    while let Some(part) = bytes.next().await {
        let part = part?;
        target.write_all(&part).with_context(cannot_write)?;
        received += part.len() as u64;
        bar.inc(part.len() as u64);
    }
    let size = file.size_bytes;
    ensure!(received == size, "{:?} has {size} bytes, but {received} came: try again", file.path);
    target.persist(folder.join(name)).with_context(cannot_write)?;
    Ok(())
}

/// Makes `relative` below `into`, one folder after the other, through no link.
fn make_folder(into: &Path, relative: &Path) -> Result<PathBuf> {
    fs::create_dir_all(into).with_context(|| format!("cannot make the folder {}", into.display()))?;
    let mut folder = into.to_owned();
    for component in relative.components() {
        let Component::Normal(name) = component else {
            bail!("{} would lie outside of {}: not downloaded", relative.display(), into.display());
        };
        folder.push(name);
        match fs::create_dir(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let is_folder = fs::symlink_metadata(&folder).is_ok_and(|metadata| metadata.is_dir());
                ensure!(is_folder, "{} is in the way: it is not a folder", folder.display());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make the folder {}", folder.display()));
            }
        }
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_made_outside_the_chosen_folder() {
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().join("into");
        assert!(make_folder(&into, Path::new("a/b")).unwrap().is_dir());
        assert!(make_folder(&into, Path::new("a/b")).unwrap().is_dir());
        for wrong in ["../x", "/x", "a/../../x"] {
            assert!(make_folder(&into, Path::new(wrong)).is_err(), "{wrong}");
        }
        std::os::unix::fs::symlink(folder.path(), into.join("link")).unwrap();
        assert!(make_folder(&into, Path::new("link/x")).unwrap_err().to_string().contains("in the way"));
        assert!(!folder.path().join("x").exists());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_the_name_the_folder_is_below(name in "[a./]{0,12}") {
            let folder = tempfile::tempdir().unwrap();
            let into = folder.path().join("into");
            if let Ok(made) = make_folder(&into, Path::new(&name)) {
                assert!(made.canonicalize().unwrap().starts_with(into.canonicalize().unwrap()));
            }
        }
    }
}

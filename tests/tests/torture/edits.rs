//! What a person does to files between two snapshots.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::Result;
use ds_tests::Dice;

/// Bytes of one file that is written at most.
const LARGEST_FILE: u64 = 16 << 20;

/// Changes a tree: about `bytes` are written, and some is removed, renamed and cut.
pub(crate) fn edit(root: &Path, bytes: u64, dice: &mut Dice) -> Result<()> {
    let mut left = bytes;
    for path in files(root)? {
        match dice.below(10) {
            0 => fs::remove_file(&path)?,
            1 => fs::rename(&path, root.join(name("moved", dice)))?,
            2 => File::options().write(true).open(&path)?.set_len(dice.below(100_000))?,
            3 => {
                let mode = *dice.one_of(&[0o600, 0o644, 0o755]);
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            }
            4 => left = left.saturating_sub(overwrite(&path, left, dice)?),
            _ => {}
        }
    }
    loop {
        left = left.saturating_sub(create(root, left, dice)?);
        if left == 0 {
            return Ok(());
        }
    }
}

/// Writes into the middle of a file; gives the number of bytes.
fn overwrite(path: &Path, most: u64, dice: &mut Dice) -> Result<u64> {
    let length = dice.below(most.min(1 << 20) + 1);
    let mut file = File::options().write(true).open(path)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(dice.below(end + 1)))?;
    file.write_all(&dice.noise(usize::try_from(length)?))?;
    Ok(length)
}

/// Writes a new file, with some company; gives the number of bytes.
fn create(root: &Path, most: u64, dice: &mut Dice) -> Result<u64> {
    let folder = match dice.below(3) {
        0 => root.join(format!("folder-{}", dice.below(8))),
        _ => root.to_owned(),
    };
    fs::create_dir_all(&folder)?;
    let path = folder.join(name("file", dice));
    let length = 1 + dice.below(most.clamp(1, LARGEST_FILE));
    fs::write(&path, dice.noise(usize::try_from(length)?))?;
    match dice.below(6) {
        0 => symlink(&path, folder.join(name("link", dice)))?,
        1 => fs::hard_link(&path, folder.join(name("twin", dice)))?,
        // Holes, which a stream leaves out.
        2 => File::create(folder.join(name("sparse", dice)))?.set_len(dice.below(1 << 24))?,
        3 => fs::write(folder.join(name("text", dice)), "the same again\n".repeat(5_000))?,
        _ => {}
    }
    Ok(length)
}

fn name(what: &str, dice: &mut Dice) -> String {
    format!("{what}-{:016x}", dice.any())
}

/// All regular files, in an order that a seed can rely on.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type()))?;
            let kind = kind?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

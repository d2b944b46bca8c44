//! Pools in files: for a machine without a pool of its owner's choice, and for tests.

use std::{fs::OpenOptions, path::Path};

use crate::{Error, Result, command};

/// Whether a pool of this name is imported.
pub async fn pool_exists(name: &str) -> Result<bool> {
    match command::zpool(&["list", "-H", "-o", "name", name]).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Creates a pool in a sparse file of `size_bytes` (ZFS wants at least 64 MiB), unmounted. A pool of this name that is imported
/// already is left as it is; a file that is there already must hold that pool, and it is imported.
pub async fn create_file_pool(name: &str, file: &Path, size_bytes: u64) -> Result<()> {
    if pool_exists(name).await? {
        return Ok(());
    }
    if file.exists() {
        return import(name, file.parent().unwrap_or(Path::new("/"))).await;
    }
    let shown = file.display().to_string();
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(file)
        .and_then(|new| new.set_len(size_bytes))
        .map_err(Error::io(format!("create the pool's file {shown}")))?;
    let created = command::zpool(&["create", "-m", "none", name, &shown]).await;
    if created.is_err() {
        // Else the next call would take the file for a pool.
        let _ = std::fs::remove_file(file);
    }
    created.map(drop)
}

/// Imports a pool whose files lie in `folder`, unless it is imported already.
pub async fn import(name: &str, folder: &Path) -> Result<()> {
    if pool_exists(name).await? {
        return Ok(());
    }
    command::zpool(&["import", "-d", &folder.display().to_string(), name]).await.map(drop)
}

/// Destroys a pool with everything on it. One that is not there is no error.
pub async fn destroy_pool(name: &str) -> Result<()> {
    match command::zpool(&["destroy", "-f", name]).await {
        Err(error) if error.is_not_found() => Ok(()),
        result => result.map(drop),
    }
}

//! The files of a hub: its CA, its own identity, the key that signs tickets, and the first admin's password.
//!
//! ```text
//! <state_dir>/ca-key.pem        600   the CA's key
//! <state_dir>/ca.pem            600   its certificate; written last, so that it is there only together with the key
//! <state_dir>/identity.pem      600   the hub's own certificate and key
//! <state_dir>/ticket-key.p8     600   Ed25519, PKCS#8
//! <state_dir>/admin-password    600   of the first start; to be deleted by whoever has read it
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use ds_domain::NodeId;
use ds_link::{Ca, Identity, Role};
use ds_transfer::ticket::TicketSigner;
use uuid::Uuid;

use crate::error::Error;

/// The keys of a hub, made at its first start.
pub struct HubState {
    dir: PathBuf,
    pub(crate) ca: Ca,
    pub(crate) identity: Identity,
    pub(crate) tickets: TicketSigner,
}

impl HubState {
    /// Opens the state folder, and makes it and what is missing in it.
    pub fn open(state_dir: &Path) -> Result<Self, Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .map_err(|source| file_error("write", state_dir, source))?;
        let ca = open_ca(state_dir)?;
        let identity = open_identity(state_dir, &ca)?;
        let tickets = open_ticket_key(&state_dir.join("ticket-key.p8"))?;
        Ok(Self { dir: state_dir.to_owned(), ca, identity, tickets })
    }

    /// The CA that signs for all nodes of this hub.
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// Makes an identity for a node that lives in the hub's own process, such as its store.
    pub fn issue(&self, role: Role, node: NodeId) -> Result<Identity, Error> {
        self.ca.issue(role, node).map_err(|source| Error::Identity { path: self.dir.clone(), source })
    }

    /// With this, stores verify tickets.
    pub fn ticket_public_key(&self) -> [u8; 32] {
        self.tickets.public_key()
    }

    /// The file with the first admin's password.
    pub fn admin_password_file(&self) -> PathBuf {
        self.dir.join("admin-password")
    }
}

fn open_ca(dir: &Path) -> Result<Ca, Error> {
    let (key_path, certificate_path) = (dir.join("ca-key.pem"), dir.join("ca.pem"));
    let failed = |source| Error::Identity { path: dir.to_owned(), source };
    if let Some(certificate) = read_if_there(&certificate_path)? {
        let key = fs::read_to_string(&key_path).map_err(|source| file_error("read", &key_path, source))?;
        return Ca::from_pem(&String::from_utf8_lossy(&certificate), &key).map_err(failed);
    }
    let ca = Ca::create().map_err(failed)?;
    write_secret(&key_path, ca.key_pem().as_bytes())?;
    write_secret(&certificate_path, ca.certificate_pem().as_bytes())?;
    tracing::info!(path = %certificate_path.display(), "made this hub's CA");
    Ok(ca)
}

fn open_identity(dir: &Path, ca: &Ca) -> Result<Identity, Error> {
    let failed = |source| Error::Identity { path: dir.to_owned(), source };
    if let Some(identity) = Identity::load(dir).map_err(failed)? {
        return Ok(identity);
    }
    let identity = ca.issue(Role::Hub, NodeId(Uuid::new_v4())).map_err(failed)?;
    identity.save(dir).map_err(failed)?;
    Ok(identity)
}

fn open_ticket_key(path: &Path) -> Result<TicketSigner, Error> {
    let failed = |source| Error::TicketKey { path: path.to_owned(), source };
    if let Some(key) = read_if_there(path)? {
        return TicketSigner::from_pkcs8(&key).map_err(failed);
    }
    let signer = TicketSigner::create().map_err(failed)?;
    write_secret(path, signer.pkcs8())?;
    Ok(signer)
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(file_error("read", path, source)),
    }
}

/// Writes a file of mode 600 as a whole: after a crash it has the old content or the new.
pub(crate) fn write_secret(path: &Path, content: &[u8]) -> Result<(), Error> {
    let failed = |source| file_error("write", path, source);
    let mut partial = path.as_os_str().to_owned();
    partial.push(".new");
    let partial = PathBuf::from(partial);
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial).map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&partial, path).map_err(failed)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

fn file_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::State { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_survive_a_restart_and_are_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("hub");
        let first = HubState::open(&state_dir).unwrap();
        let second = HubState::open(&state_dir).unwrap();
        assert_eq!(first.ca().fingerprint(), second.ca().fingerprint());
        assert_eq!(first.identity.certificate_pem(), second.identity.certificate_pem());
        assert_eq!(first.ticket_public_key(), second.ticket_public_key());
        for entry in fs::read_dir(&state_dir).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{:?}", entry.path());
        }
    }

    #[test]
    fn a_start_that_died_before_the_certificate_makes_a_new_ca() {
        let dir = tempfile::tempdir().unwrap();
        write_secret(&dir.path().join("ca-key.pem"), b"half").unwrap();
        HubState::open(dir.path()).unwrap();
        HubState::open(dir.path()).unwrap();
    }
}

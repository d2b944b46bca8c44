//! What the peers need to talk to each other: keys and certificates that are thrown away, and files of settings.

use std::{
    cell::Cell,
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use ds_domain::ids::NodeId;
use ds_link::{Ca, Peer, Role};
use tempfile::TempDir;
use uuid::Uuid;

/// OpenSSL's settings for socat, which can choose suites up to TLS 1.2 only and would take AES-256 else.
const OPENSSL_SETTINGS: &str = "openssl_conf = start\n\
    [start]\nssl_conf = ssl\n\
    [ssl]\nsystem_default = tls\n\
    [tls]\nMinProtocol = TLSv1.3\nCiphersuites = TLS_AES_128_GCM_SHA256\n";
/// Ports are not used twice, so that no connection of an earlier run is in the way.
const FIRST_PORT: u16 = 20_000;

/// A folder of them.
#[derive(Debug)]
pub(crate) struct Kit {
    folder: TempDir,
    store: NodeId,
    port: Cell<u16>,
}

impl Kit {
    /// Makes all keys and files.
    pub(crate) fn make() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let kit = Self { folder, store: NodeId(Uuid::new_v4()), port: Cell::new(FIRST_PORT) };
        let ca = Ca::create()?;
        ca.issue(Role::Store, kit.store)?.save(&kit.receiver_identity())?;
        ca.issue(Role::Runner, NodeId(Uuid::new_v4()))?.save(&kit.sender_identity())?;
        fs::write(kit.ca_certificate(), ca.certificate_pem())?;
        fs::write(kit.openssl_settings(), OPENSSL_SETTINGS)?;
        for key in [kit.ssh_host_key(), kit.ssh_user_key()] {
            make_ssh_key(&key)?;
        }
        Ok(kit)
    }

    /// A port that was not used before.
    pub(crate) fn next_port(&self) -> u16 {
        self.port.replace(self.port.get() + 1)
    }

    /// The store's id, which the receiver's certificate has.
    pub(crate) fn store(&self) -> NodeId {
        self.store
    }

    /// The receiver's name in its certificate.
    pub(crate) fn receiver_name(&self) -> String {
        Peer::dns_name(self.store)
    }

    /// The folder of the receiver's identity.
    pub(crate) fn receiver_identity(&self) -> PathBuf {
        self.file("receiver")
    }

    /// Key, certificate and CA of the receiver in one file.
    pub(crate) fn receiver_certificate(&self) -> PathBuf {
        self.receiver_identity().join("identity.pem")
    }

    /// The folder of the sender's identity.
    pub(crate) fn sender_identity(&self) -> PathBuf {
        self.file("sender")
    }

    /// The certificate that signed both.
    pub(crate) fn ca_certificate(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// See [`OPENSSL_SETTINGS`].
    pub(crate) fn openssl_settings(&self) -> PathBuf {
        self.file("openssl.cnf")
    }

    /// The key of the user that logs in.
    pub(crate) fn ssh_user_key(&self) -> PathBuf {
        self.file("ssh_user_key")
    }

    /// Where a sink leaves its report.
    pub(crate) fn sink_report(&self) -> PathBuf {
        self.file("sink.json")
    }

    /// Settings of an sshd that lets one key in and nothing else.
    pub(crate) fn sshd_settings(&self, port: u16) -> Result<PathBuf> {
        let file = self.file("sshd_config");
        let settings = format!(
            "Port {port}\nHostKey {}\nAuthorizedKeysFile {}.pub\nStrictModes no\nUsePAM no\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PidFile none\nLogLevel ERROR\n",
            self.ssh_host_key().display(),
            self.ssh_user_key().display(),
        );
        fs::write(&file, settings)?;
        // Where sshd locks its unprivileged half up; the system makes it when it starts its own sshd.
        DirBuilder::new().recursive(true).mode(0o755).create("/run/sshd")?;
        Ok(file)
    }

    fn ssh_host_key(&self) -> PathBuf {
        self.file("ssh_host_key")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn make_ssh_key(file: &Path) -> Result<()> {
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(file)
        .status()
        .context("ssh-keygen could not be started; install openssh-client")?;
    ensure!(status.success(), "ssh-keygen failed");
    Ok(())
}

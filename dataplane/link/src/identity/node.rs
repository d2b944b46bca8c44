use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{Peer, ca};
use crate::{Error, Result};

/// Key, certificate and CA in one file, so that it is replaced as a whole.
const FILE: &str = "identity.pem";

/// A node's key before it has a certificate.
pub struct NodeKey(KeyPair);

impl NodeKey {
    /// Makes a new key on P-256.
    pub fn generate() -> Result<Self> {
        Ok(Self(ca::new_key()?))
    }

    /// The certificate request (PKCS#10) to hand to the hub.
    pub fn csr_pem(&self) -> Result<String> {
        let made = |source| Error::Make { what: "a certificate request", source };
        let request = CertificateParams::default().serialize_request(&self.0).map_err(made)?;
        request.pem().map_err(made)
    }

    /// Joins the key with what the hub returned. Fails if the certificate is for another key.
    pub fn into_identity(self, certificate_pem: &str, ca_pem: &str) -> Result<Identity> {
        Identity::new(self.0.serialize_pem(), certificate_pem.to_owned(), ca_pem.to_owned())
    }

    pub(super) fn pair(&self) -> &KeyPair {
        &self.0
    }
}

/// A node's key and certificate, and the CA that it believes.
#[derive(Clone)]
pub struct Identity {
    peer: Peer,
    key_pem: String,
    certificate_pem: String,
    ca_pem: String,
}

impl Identity {
    fn new(key_pem: String, certificate_pem: String, ca_pem: String) -> Result<Self> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|e| Error::unusable("the certificate", e))?;
        let peer = Peer::from_certificate(&certificate)?;
        let key = KeyPair::from_pem(&key_pem).map_err(|e| Error::unusable("the key", e))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|e| Error::unusable("the certificate", e))?;
        if parsed.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(Error::unusable("the certificate", "it belongs to another key"));
        }
        CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(|e| Error::unusable("the CA's certificate", e))?;
        Ok(Self { peer, key_pem, certificate_pem, ca_pem })
    }

    /// Writes it to `identity.pem` in `folder`, which is made with mode 700 if it is missing. The file has mode 600
    /// and is replaced as a whole.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { action, path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed("create the folder", folder))?;
        let path = folder.join(FILE);
        let text =
            [&self.key_pem, &self.certificate_pem, &self.ca_pem].map(|pem| pem.trim()).join("\n") + "\n";
        replace(folder, &path, text.as_bytes()).map_err(failed("write", &path))
    }

    /// Reads what [`Identity::save`] wrote; `None` if there is nothing yet.
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::File { action: "read", path, source }),
        };
        let blocks = pem_blocks(&text);
        match blocks.as_slice() {
            [key, certificate, ca] => {
                Self::new((*key).to_owned(), (*certificate).to_owned(), (*ca).to_owned()).map(Some)
            }
            _ => Err(Error::unusable(
                "the node's identity",
                format!("{} has {} parts instead of 3; register the node anew", path.display(), blocks.len()),
            )),
        }
    }

    /// Role and id, as the certificate says.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The certificate, followed by the CA's: what a server shows, so that whoever knows the CA's fingerprint only can
    /// find it in the chain.
    pub fn chain_pem(&self) -> String {
        format!("{}\n{}\n", self.certificate_pem.trim(), self.ca_pem.trim())
    }

    /// The certificate alone.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key in PKCS#8.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The CA that it believes.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The certificate's DER.
    pub fn certificate_der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).expect("parsed when it was made")
    }

    /// Signs `message` with the node's key: ECDSA P-256 over SHA-256, ASN.1. [`super::Trust::verify`] is its other half.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let key = self.key_der();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.secret_der())
            .map_err(|e| Error::unusable("the key", e))?;
        let signature = pair
            .sign(&SystemRandom::new(), message)
            .map_err(|_| Error::unusable("the key", "signing failed"))?;
        Ok(signature.as_ref().to_vec())
    }

    /// The same node, which believes another CA.
    #[cfg(test)]
    pub(crate) fn believing(mut self, ca_pem: &str) -> Self {
        ca_pem.clone_into(&mut self.ca_pem);
        self
    }

    pub(crate) fn chain_der(&self) -> Vec<CertificateDer<'static>> {
        let ca = CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).expect("parsed when it was made");
        vec![self.certificate_der(), ca]
    }

    pub(crate) fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("parsed when it was made")
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("peer", &self.peer).finish_non_exhaustive()
    }
}

fn pem_blocks(text: &str) -> Vec<&str> {
    let starts: Vec<_> = text.match_indices("-----BEGIN ").map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().zip(ends).map(|(&start, end)| &text[start..end]).collect()
}

/// Writes beside the file, then renames: a crash leaves the old file or the new one.
fn replace(folder: &Path, path: &Path, contents: &[u8]) -> io::Result<()> {
    let new = path.with_extension("pem.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use ds_domain::ids::NodeId;
    use uuid::Uuid;

    use super::*;
    use crate::{Ca, Role};

    #[test]
    fn an_identity_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("runner");
        assert!(Identity::load(&folder).unwrap().is_none());
        let ca = Ca::create().unwrap();
        for id in [1, 2] {
            let identity = ca.issue(Role::Runner, NodeId(Uuid::from_u128(id))).unwrap();
            identity.save(&folder).unwrap();
            let again = Identity::load(&folder).unwrap().unwrap();
            assert_eq!(again.peer(), identity.peer());
            assert_eq!(again.chain_der(), identity.chain_der());
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join(FILE))), (0o700, 0o600));
        assert!(!format!("{:?}", Identity::load(&folder).unwrap()).contains("PRIVATE"));
    }

    #[test]
    fn a_cut_file_and_a_foreign_key_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::create().unwrap();
        let identity = ca.issue(Role::Store, NodeId(Uuid::from_u128(1))).unwrap();
        fs::write(folder.path().join(FILE), identity.key_pem()).unwrap();
        assert!(Identity::load(folder.path()).unwrap_err().to_string().contains("register the node anew"));
        let other =
            NodeKey::generate().unwrap().into_identity(identity.certificate_pem(), ca.certificate_pem());
        assert!(other.unwrap_err().to_string().contains("another key"));
    }
}

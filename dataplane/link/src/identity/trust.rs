use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use super::Peer;
use crate::{Error, Result, tls};

/// What is believed because the hub's CA signed it.
#[derive(Debug, Clone)]
pub struct Trust(Arc<WebPkiServerVerifier>);

impl Trust {
    /// Believes one CA.
    pub fn from_ca_pem(ca_pem: &str) -> Result<Self> {
        let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(|e| Error::unusable("the CA's certificate", e))?;
        Self::from_ca(ca)
    }

    pub(crate) fn from_ca(ca: CertificateDer<'static>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(ca).map_err(|e| Error::unusable("the CA's certificate", e))?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), tls::provider())
            .build()
            .map(Self)
            .map_err(|e| Error::unusable("the CA's certificate", e))
    }

    /// Verifies a certificate (DER) against the CA and this machine's clock, and says whose it is.
    pub fn peer(&self, certificate: &[u8]) -> Result<Peer> {
        let peer = Peer::from_certificate(certificate)?;
        let name = ServerName::try_from(Peer::dns_name(peer.node)).expect("our names are DNS names");
        self.0
            .verify_server_cert(&CertificateDer::from(certificate), &[], &name, &[], UnixTime::now())
            .map_err(|e| Error::unusable("the certificate", e))?;
        Ok(peer)
    }

    /// Verifies that the owner of `certificate` signed `message` ([`super::Identity::sign`]), and says who that is.
    pub fn verify(&self, certificate: &[u8], message: &[u8], signature: &[u8]) -> Result<Peer> {
        let peer = self.peer(certificate)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|e| Error::unusable("the certificate", e))?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &parsed.public_key().subject_public_key.data)
            .verify(message, signature)
            .map_err(|_| Error::unusable("the signature", format!("{peer} did not make it")))?;
        Ok(peer)
    }

    pub(crate) fn verifier(&self) -> &Arc<WebPkiServerVerifier> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use ds_domain::ids::NodeId;
    use uuid::Uuid;

    use super::*;
    use crate::{Ca, Role};

    #[test]
    fn a_signature_holds_for_its_message_key_and_ca_only() {
        let (ca, other_ca) = (Ca::create().unwrap(), Ca::create().unwrap());
        let trust = Trust::from_ca_pem(ca.certificate_pem()).unwrap();
        let [one, two] = [1, 2].map(|n| ca.issue(Role::Store, NodeId(Uuid::from_u128(n))).unwrap());
        let signature = one.sign(b"message").unwrap();
        assert_eq!(trust.verify(&one.certificate_der(), b"message", &signature).unwrap(), one.peer());
        assert!(trust.verify(&one.certificate_der(), b"massage", &signature).is_err());
        assert!(trust.verify(&two.certificate_der(), b"message", &signature).is_err());
        let foreign = other_ca.issue(Role::Store, one.peer().node).unwrap();
        let signature = foreign.sign(b"message").unwrap();
        assert!(trust.verify(&foreign.certificate_der(), b"message", &signature).is_err());
    }
}

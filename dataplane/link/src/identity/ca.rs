use aws_lc_rs::{digest, rand};
use ds_domain::ids::NodeId;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use time::{Duration, OffsetDateTime};

use super::{HUB_NAME, Identity, NodeKey, Peer, Role};
use crate::{Error, Result};

const CLOCK_TOLERANCE: Duration = Duration::days(1);
const CA_VALIDITY: Duration = Duration::days(10 * 365);
const NODE_VALIDITY: Duration = Duration::days(5 * 365);

/// Bytes of an uncompressed point on P-256: 0x04, x, y.
const P256_POINT_BYTES: usize = 65;

/// The hub's certificate authority: ECDSA P-256, made at the hub's first start.
pub struct Ca {
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// Makes a new one with a key of its own.
    pub fn create() -> Result<Self> {
        let key = new_key()?;
        let mut params = params("Dotstream CA", CA_VALIDITY)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params
            .self_signed(&key)
            .map_err(|source| Error::Make { what: "the CA's certificate", source })?;
        Self::new(certificate.pem(), key)
    }

    /// Reads what [`Ca::certificate_pem`] and [`Ca::key_pem`] gave.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self> {
        let key = KeyPair::from_pem(key_pem).map_err(|e| Error::unusable("the CA's key", e))?;
        Self::new(certificate_pem.to_owned(), key)
    }

    fn new(certificate_pem: String, key: KeyPair) -> Result<Self> {
        let unusable = |e: &dyn std::fmt::Display| Error::unusable("the CA's certificate", e);
        let certificate =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|e| unusable(&e))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|e| unusable(&e))?;
        Ok(Self { certificate_pem, certificate, issuer })
    }

    /// The certificate, for everyone to see.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key in PKCS#8. Keep it in a file of mode 600.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// SHA-256 of the certificate's DER, as registration tokens carry it.
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.certificate)
    }

    /// Signs a node's request and returns the certificate in PEM.
    ///
    /// Only the public key is taken from the request, and only if it is on P-256 and the request's own signature shows
    /// that the asker has the private key; names, usages and validity are ours. A hub's certificate is never given on
    /// request.
    pub fn sign_csr(&self, csr_pem: &str, role: Role, node: NodeId) -> Result<String> {
        if role == Role::Hub {
            return Err(Error::unusable("the certificate request", "a hub does not register with a hub"));
        }
        let request = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|e| Error::unusable("the certificate request", e))?;
        let key = request.public_key;
        if key.algorithm() != &PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != P256_POINT_BYTES {
            return Err(Error::unusable("the certificate request", "its key is not an ECDSA key on P-256"));
        }
        Ok(self.certify(&key, role, node)?.pem())
    }

    /// Makes key and certificate of a node that lives in the hub's own process, or of the hub itself.
    pub fn issue(&self, role: Role, node: NodeId) -> Result<Identity> {
        let key = NodeKey::generate()?;
        let certificate = self.certify(key.pair(), role, node)?;
        key.into_identity(&certificate.pem(), &self.certificate_pem)
    }

    fn certify(&self, key: &impl PublicKeyData, role: Role, node: NodeId) -> Result<Certificate> {
        let mut params = params(&Peer { role, node }.to_string(), NODE_VALIDITY)?;
        let mut names = vec![Peer::dns_name(node)];
        if role == Role::Hub {
            names.push(HUB_NAME.to_owned());
        }
        for name in names {
            let name = name.as_str().try_into().expect("our names are ASCII");
            params.subject_alt_names.push(rcgen::SanType::DnsName(name));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params
            .signed_by(key, &self.issuer)
            .map_err(|source| Error::Make { what: "the node's certificate", source })
    }
}

/// SHA-256 of a certificate's DER.
pub(super) fn fingerprint(der: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, der);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

pub(super) fn new_key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map_err(|source| Error::Make { what: "a key pair", source })
}

fn params(common_name: &str, validity: Duration) -> Result<CertificateParams> {
    let now = OffsetDateTime::now_utc();
    let mut serial = [0; 16];
    rand::fill(&mut serial).map_err(|_| Error::unusable("the system's source of randomness", "it failed"))?;
    let mut params = CertificateParams::default();
    params.not_before = now - CLOCK_TOLERANCE;
    params.not_after = now + validity;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use rcgen::PKCS_ED25519;
    use uuid::Uuid;

    use super::*;
    use crate::Trust;

    fn node() -> NodeId {
        NodeId(Uuid::from_u128(0x1234))
    }

    #[test]
    fn a_signed_request_makes_an_identity() {
        let ca = Ca::create().unwrap();
        let key = NodeKey::generate().unwrap();
        let certificate = ca.sign_csr(&key.csr_pem().unwrap(), Role::Runner, node()).unwrap();
        let identity = key.into_identity(&certificate, ca.certificate_pem()).unwrap();
        assert_eq!(identity.peer(), Peer { role: Role::Runner, node: node() });
        let trust = Trust::from_ca_pem(ca.certificate_pem()).unwrap();
        assert_eq!(trust.peer(&identity.certificate_der()).unwrap(), identity.peer());
    }

    #[test]
    fn a_request_with_a_changed_byte_is_refused() {
        let ca = Ca::create().unwrap();
        let pem = NodeKey::generate().unwrap().csr_pem().unwrap();
        let at = pem.len() / 2;
        let other = if pem.as_bytes()[at] == b'A' { "B" } else { "A" };
        let changed = format!("{}{other}{}", &pem[..at], &pem[at + 1..]);
        assert!(ca.sign_csr(&changed, Role::Runner, node()).is_err());
        assert!(ca.sign_csr("no PEM at all", Role::Runner, node()).is_err());
    }

    #[test]
    fn names_in_a_request_are_ignored_and_other_keys_refused() {
        let ca = Ca::create().unwrap();
        let key = new_key().unwrap();
        let mut greedy = CertificateParams::default();
        greedy.distinguished_name.push(DnType::CommonName, "hub:00000000-0000-0000-0000-000000000001");
        greedy.subject_alt_names.push(rcgen::SanType::DnsName(HUB_NAME.try_into().unwrap()));
        let csr = greedy.serialize_request(&key).unwrap().pem().unwrap();
        let pem = ca.sign_csr(&csr, Role::Runner, node()).unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        assert_eq!(Peer::from_certificate(&der).unwrap(), Peer { role: Role::Runner, node: node() });
        assert!(!String::from_utf8_lossy(&der).contains(HUB_NAME));

        let other = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let csr = greedy.serialize_request(&other).unwrap().pem().unwrap();
        assert!(ca.sign_csr(&csr, Role::Runner, node()).unwrap_err().to_string().contains("P-256"));
        assert!(ca.sign_csr(&csr, Role::Hub, node()).is_err());
    }

    #[test]
    fn a_ca_survives_its_own_files() {
        let ca = Ca::create().unwrap();
        let again = Ca::from_pem(ca.certificate_pem(), &ca.key_pem()).unwrap();
        assert_eq!(again.fingerprint(), ca.fingerprint());
        let store = again.issue(Role::Store, node()).unwrap();
        assert!(Trust::from_ca_pem(ca.certificate_pem()).unwrap().peer(&store.certificate_der()).is_ok());
    }
}

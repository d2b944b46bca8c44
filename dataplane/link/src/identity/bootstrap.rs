use std::{sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{HUB_NAME, Trust, ca::fingerprint};
use crate::{Error, Result, tls};

const PATIENCE: Duration = Duration::from_secs(10);

/// Takes the CA's certificate (PEM) from a hub of which only the fingerprint is known.
///
/// Shakes hands over TCP and TLS with `address` (`host:port` of its gRPC) and believes it only if the chain that it
/// shows has a certificate with this fingerprint, and its own certificate is signed by that one. Nothing is sent.
pub async fn fetch_ca(address: &str, fingerprint: &[u8; 32]) -> Result<String> {
    let unreachable =
        |e: std::io::Error| Error::Unreachable { who: address.to_owned(), reason: e.to_string() };
    let verifier = Arc::new(ByFingerprint { fingerprint: *fingerprint });
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let name = ServerName::try_from(HUB_NAME).expect("our names are DNS names");

    let handshake = async {
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|e| {
            let wrong = e.get_ref().and_then(|inner| inner.downcast_ref()).is_some_and(|e| {
                matches!(e, rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))
            });
            if wrong { Error::WrongCa { address: address.to_owned() } } else { unreachable(e) }
        })
    };
    let stream = timeout(PATIENCE, handshake).await.map_err(|_| Error::Unreachable {
        who: address.to_owned(),
        reason: "no answer within 10 s".into(),
    })??;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let ca = find(chain, fingerprint).ok_or_else(|| Error::WrongCa { address: address.to_owned() })?;
    Ok(tls::certificate_pem(ca))
}

fn find<'a, 'b>(chain: &'a [CertificateDer<'b>], wanted: &[u8; 32]) -> Option<&'a CertificateDer<'b>> {
    chain.iter().find(|der| &fingerprint(der) == wanted)
}

/// Believes a CA that is in the chain and has the fingerprint.
#[derive(Debug)]
struct ByFingerprint {
    fingerprint: [u8; 32],
}

impl ServerCertVerifier for ByFingerprint {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::from(rustls::CertificateError::UnknownIssuer);
        let ca = find(intermediates, &self.fingerprint).ok_or_else(unknown)?;
        let trust = Trust::from_ca(ca.clone().into_owned()).map_err(|_| unknown())?;
        trust.verifier().verify_server_cert(end_entity, &[], server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = tls::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = tls::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use ds_domain::ids::NodeId;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use uuid::Uuid;

    use super::*;
    use crate::{Ca, Identity, Role};

    /// Answers one handshake and returns where.
    async fn serve(identity: &Identity) -> String {
        let config = rustls::ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(identity.chain_der(), identity.key_der())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
        });
        address
    }

    #[tokio::test]
    async fn the_ca_is_taken_only_by_its_fingerprint() {
        let (ca, other) = (Ca::create().unwrap(), Ca::create().unwrap());
        let hub = ca.issue(Role::Hub, NodeId(Uuid::from_u128(1))).unwrap();
        let pem = fetch_ca(&serve(&hub).await, &ca.fingerprint()).await.unwrap();
        assert_eq!(Ca::from_pem(&pem, &ca.key_pem()).unwrap().fingerprint(), ca.fingerprint());
        let wrong = fetch_ca(&serve(&hub).await, &other.fingerprint()).await.unwrap_err();
        assert!(matches!(wrong, Error::WrongCa { .. }), "{wrong}");
    }

    #[tokio::test]
    async fn a_node_cannot_pose_as_the_hub() {
        let ca = Ca::create().unwrap();
        let runner = ca.issue(Role::Runner, NodeId(Uuid::from_u128(2))).unwrap();
        assert!(fetch_ca(&serve(&runner).await, &ca.fingerprint()).await.is_err());
    }

    #[tokio::test]
    async fn a_closed_port_is_said_to_be_unreachable() {
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().to_string()
        };
        let error = fetch_ca(&address, &[0; 32]).await.unwrap_err();
        assert!(error.is_retryable() && error.to_string().contains(&address), "{error}");
    }
}

//! TLS as links use it: version 1.3, AES-128-GCM first, both ends with a certificate of the hub's CA.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::CertificateDer,
    server::WebPkiClientVerifier,
    version::TLS13,
};

use crate::{Error, Identity, Result, Trust};

/// What a link speaks.
pub(crate) const ALPN: &[u8] = b"ds-data/1";

/// AES-128-GCM first: the fastest where there is AES in hardware, and every machine that holds volumes has that.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// The one suite of links over TCP: lanes read and write its records themselves.
fn tcp_provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

pub(crate) fn quic_client(identity: &Identity) -> Result<QuicClientConfig> {
    let config = client_with(provider(), identity)?;
    Ok(QuicClientConfig::try_from(config).expect("the provider has AES-128-GCM"))
}

pub(crate) fn quic_server(identity: &Identity) -> Result<QuicServerConfig> {
    let config = server_with(provider(), identity)?;
    Ok(QuicServerConfig::try_from(config).expect("the provider has AES-128-GCM"))
}

/// For TCP.
pub(crate) fn client(identity: &Identity) -> Result<ClientConfig> {
    let mut config = client_with(tcp_provider(), identity)?;
    config.enable_secret_extraction = true;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// For TCP. Without session tickets, which would come between what a lane reads.
pub(crate) fn server(identity: &Identity) -> Result<ServerConfig> {
    let mut config = server_with(tcp_provider(), identity)?;
    config.enable_secret_extraction = true;
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_with(provider: Arc<CryptoProvider>, identity: &Identity) -> Result<ClientConfig> {
    let trust = Trust::from_ca_pem(identity.ca_pem())?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(trust.verifier()) as _)
        .with_client_auth_cert(identity.chain_der(), identity.key_der())
        .map_err(|e| Error::unusable("the node's identity", e))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn server_with(provider: Arc<CryptoProvider>, identity: &Identity) -> Result<ServerConfig> {
    let mut roots = RootCertStore::empty();
    let [_, ca] = <[_; 2]>::try_from(identity.chain_der()).expect("a certificate and its CA");
    roots.add(ca).map_err(|e| Error::unusable("the CA's certificate", e))?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|e| Error::unusable("the CA's certificate", e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites for TLS 1.3")
        .with_client_cert_verifier(clients)
        .with_single_cert(identity.chain_der(), identity.key_der())
        .map_err(|e| Error::unusable("the node's identity", e))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// A certificate in PEM.
pub(crate) fn certificate_pem(der: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> =
        text.as_bytes().chunks(64).map(|line| str::from_utf8(line).expect("base64")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

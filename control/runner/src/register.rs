//! How a runner gets its identity, once: with a token, from the hub that made the token.

use std::path::Path;

use ds_link::{Identity, NodeKey, RegistrationToken};
use ds_proto::{
    PROTOCOL,
    v1::{self, nodes_client::NodesClient},
};
use serde::{Deserialize, Serialize};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::{
    error::{Error, Result},
    journal,
    session::CONNECT_PATIENCE,
};

/// The hub's public key for tickets, beside the identity: for what serves others on this machine.
const TICKET_KEY: &str = "ticket-key.pub";

/// Who this runner is, and which hub is its own.
#[derive(Clone)]
pub(crate) struct Registered {
    pub(crate) identity: Identity,
    pub(crate) hub: HubAddress,
}

/// What is kept beside the identity, in `hub.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HubAddress {
    /// `host:port` of its gRPC.
    pub(crate) address: String,
    /// The runner's name there.
    pub(crate) runner_name: String,
}

/// Makes this machine a node of the hub whose token it is, and keeps what it got in the folder `identity` of
/// `state_dir`. For what needs an identity and executes no tasks.
pub async fn register(state_dir: &Path, token: &str) -> Result<Identity> {
    identity(state_dir, Some(token)).await.map(|registered| registered.identity)
}

/// Loads the identity in `state_dir`, or trades the token for one. A token is not looked at where there is an identity.
pub(crate) async fn identity(state_dir: &Path, token: Option<&str>) -> Result<Registered> {
    let dir = state_dir.join("identity");
    if let Some(identity) = Identity::load(&dir).map_err(Error::Identity)? {
        return Ok(Registered { identity, hub: read_address(&dir)? });
    }
    let token = token.ok_or_else(|| Error::NotRegistered { dir: dir.clone() })?;
    let token: RegistrationToken = token.parse().map_err(Error::Token)?;
    let (registered, ticket_key) = trade(&token).await?;
    // The identity last: where it is, the runner is registered.
    write_address(&dir, &registered.hub).await?;
    journal::replace(dir.join(TICKET_KEY), ticket_key).await?;
    registered.identity.save(&dir).map_err(Error::Identity)?;
    tracing::info!(runner.id = %registered.identity.peer().node, name = registered.hub.runner_name, "registered");
    Ok(registered)
}

/// Gives the key as well with which tickets of the hub are verified.
async fn trade(token: &RegistrationToken) -> Result<(Registered, Vec<u8>)> {
    let address = &token.address;
    let unreachable =
        |e: tonic::transport::Error| Error::HubUnreachable { address: address.clone(), source: e.into() };
    let ca_pem = ds_link::fetch_ca(address, &token.ca_fingerprint)
        .await
        .map_err(|e| Error::HubUnreachable { address: address.clone(), source: e.into() })?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ca_pem));
    let channel = endpoint(address, tls)?.connect().await.map_err(unreachable)?;

    let key = NodeKey::generate().map_err(Error::Identity)?;
    let request = v1::RegisterRequest {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        token_secret: token.secret.clone(),
        role: v1::Role::Runner.into(),
        csr_pem: key.csr_pem().map_err(Error::Identity)?,
    };
    let response = NodesClient::new(channel).register(request).await;
    let response = response
        .map_err(|status| Error::HubRefused {
            address: address.clone(),
            reason: status.message().to_owned(),
        })?
        .into_inner();
    // The CA that was verified by its fingerprint counts, whatever the answer says.
    let identity = key.into_identity(&response.certificate_pem, &ca_pem).map_err(Error::Identity)?;
    let hub = HubAddress { address: address.clone(), runner_name: response.name };
    Ok((Registered { identity, hub }, response.ticket_public_key))
}

/// The gRPC endpoint of the hub at `address`.
pub(crate) fn endpoint(address: &str, tls: ClientTlsConfig) -> Result<Endpoint> {
    let invalid =
        |e: tonic::transport::Error| Error::HubUnreachable { address: address.to_owned(), source: e.into() };
    let endpoint = Channel::from_shared(format!("https://{address}"))
        .map_err(|e| Error::HubUnreachable { address: address.to_owned(), source: e.into() })?;
    let tls = tls.domain_name(ds_link::identity::HUB_NAME);
    Ok(endpoint.tls_config(tls).map_err(invalid)?.connect_timeout(CONNECT_PATIENCE))
}

fn read_address(dir: &Path) -> Result<HubAddress> {
    let path = dir.join("hub.json");
    let read = std::fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
    read.map_err(|source| Error::HubUnknown { path, source })
}

async fn write_address(dir: &Path, hub: &HubAddress) -> Result<()> {
    let path = dir.join("hub.json");
    let bytes = serde_json::to_vec_pretty(hub).expect("a struct of strings");
    std::fs::create_dir_all(dir).map_err(|source| Error::File {
        doing: "create",
        path: dir.into(),
        source,
    })?;
    journal::replace(path, bytes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_missing_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let said = async |token| identity(dir.path(), token).await.err().unwrap().to_string();
        assert!(said(None).await.contains("ds runner create"));
        assert!(said(Some("dsr1.cut")).await.contains("copy it whole"));
        let nobody = RegistrationToken::generate("127.0.0.1:1", [0; 32]).unwrap().to_string();
        assert!(said(Some(&nobody)).await.contains("cannot reach the hub at 127.0.0.1:1"));
    }

    #[tokio::test]
    async fn an_identity_without_a_hub_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let ca = ds_link::Ca::create().unwrap();
        let identity = ca.issue(ds_link::Role::Runner, ds_domain::NodeId(uuid::Uuid::new_v4())).unwrap();
        identity.save(&dir.path().join("identity")).unwrap();
        for content in [None, Some("{")] {
            if let Some(content) = content {
                std::fs::write(dir.path().join("identity/hub.json"), content).unwrap();
            }
            let said = identity_error(dir.path()).await;
            assert!(said.contains("hub.json") && said.contains("register the runner again"), "{said}");
        }
    }

    async fn identity_error(dir: &Path) -> String {
        identity(dir, None).await.err().unwrap().to_string()
    }
}

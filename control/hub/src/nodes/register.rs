//! Trades a registration token and a certificate request for an identity.

use ds_domain::NodeId;
use ds_link::Role;
use ds_proto::v1::{self, RegisterRequest, RegisterResponse};
use tonic::Status;

use super::{VERSION, check_protocol, database};
use crate::{
    auth::secret::{sha256, token_hash},
    clock::now_ms,
    core::Core,
    error::chain,
};

/// A token works once: the transaction that keeps the certificate's hash uses it up. An answer that got lost
/// cannot be had again; the runner is removed and made anew.
pub(super) async fn register(core: &Core, request: RegisterRequest) -> Result<RegisterResponse, Status> {
    check_protocol(request.protocol, &request.version)?;
    if request.role() != v1::Role::Runner {
        return Err(Status::permission_denied(
            "this token is a runner's: a store of this hub gets its identity from the hub's own program",
        ));
    }
    let (token, now) = (token_hash(&request.token_secret), now_ms());
    let runner = core.db.runner_of_token(token, now).await.map_err(refusal)?.runner;
    let node = NodeId::from(runner.id);
    let certificate_pem = core
        .ca
        .sign_csr(&request.csr_pem, Role::Runner, node)
        .map_err(|error| Status::invalid_argument(chain(&error)))?;
    let hash = certificate_hash(&certificate_pem)?;
    core.db.register_runner(token, hash, now).await.map_err(refusal)?;
    tracing::info!(runner.id = %runner.id, runner.name = runner.name, "a runner registered");
    core.nodes_changed.notify_one();
    core.events.publish(ds_domain::api::Event::Runner { id: runner.id });
    Ok(RegisterResponse {
        node_id: node.to_bytes(),
        name: runner.name,
        certificate_pem,
        ca_pem: core.ca.certificate_pem().to_owned(),
        ticket_public_key: core.tickets.public_key().to_vec(),
        hub_version: VERSION.to_owned(),
    })
}

fn certificate_hash(pem: &str) -> Result<[u8; 32], Status> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| Status::internal("the hub made a certificate that it cannot read"))?;
    Ok(sha256(&der))
}

fn refusal(error: ds_db::Error) -> Status {
    match error {
        ds_db::Error::NotFound { .. } => Status::permission_denied(
            "the hub does not know this registration token: make a runner with `ds runner create NAME` and use its token",
        ),
        ds_db::Error::Conflict(why) => Status::permission_denied(format!(
            "the registration token cannot be used: {why}; remove the runner with `ds runner rm` and make it again for a new one"
        )),
        error => database(&error),
    }
}

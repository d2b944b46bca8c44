//! Tickets for trees: who gets one, and that the store would take it.

use ds_domain::{NodeId, api::TreeTicketGrant};
use ds_link::NodeKey;
use ds_proto::v1::Direction;
use ds_transfer::ticket::{self, Presentation, TicketVerifier};
use reqwest::StatusCode;
use serde_json::json;

use crate::{fake_runner, support::TestHub};

#[tokio::test]
async fn an_admin_permits_a_registered_node_to_move_one_tree() {
    let hub = TestHub::start().await;
    let (runner, token) = fake_runner::create(&hub, "one").await;
    let peer = NodeId::from(runner);
    let path = "/api/v1/trees/photos/tickets";
    let body = json!({"peer": peer, "direction": "push"});
    let (early, problem) = hub.admin.post(path, &body).await;
    assert_eq!(early, StatusCode::BAD_REQUEST, "{problem}");

    let key = NodeKey::generate().unwrap();
    fake_runner::register(&hub, fake_runner::request(&token, &key)).await.unwrap();
    let grant: TreeTicketGrant = hub.admin.post_as(path, &body).await;
    assert_eq!(grant.host, hub.store.peer().node);
    assert_eq!(grant.address, Some(format!(":{}", hub.store_address.port())));
    let verifier = TicketVerifier::new(hub.state.ticket_public_key());
    let now_ms = grant.expires_ms - 1;
    let at = Presentation { peer, store: grant.host, now_ms, remembered_since_ms: now_ms };
    let allowed = verifier.verify_tree(&ticket::from_text(&grant.ticket).unwrap(), &at).unwrap();
    assert_eq!((allowed.tree.as_str(), allowed.direction), ("photos", Direction::Push));

    let at_runner = json!({"peer": hub.store.peer().node, "direction": "pull", "host": "one"});
    let grant: TreeTicketGrant = hub.admin.post_as(path, &at_runner).await;
    assert_eq!((grant.host, grant.address), (peer, None));

    let someone = hub.user("someone").await;
    assert_eq!(someone.post(path, &body).await.0, StatusCode::FORBIDDEN);
    let unknown = json!({"peer": NodeId(uuid::Uuid::new_v4()), "direction": "push"});
    assert_eq!(hub.admin.post(path, &unknown).await.0, StatusCode::NOT_FOUND);
    let (wrong, problem) = hub.admin.post("/api/v1/trees/..x/tickets", &body).await;
    assert_eq!(wrong, StatusCode::BAD_REQUEST, "{problem}");
    hub.stop().await;
}

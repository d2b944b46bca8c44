//! Logging in, tokens and keys.

use std::os::unix::fs::PermissionsExt;

use ds_domain::api::{ApiKey, CreateKey, CreateUser, CreatedUser, Page, Token, User};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Client, PASSWORD, TestHub};

#[tokio::test]
async fn the_first_start_makes_an_admin_whose_password_is_in_a_private_file() {
    let hub = TestHub::start().await;
    let file = hub.state.admin_password_file();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let admin: User = hub.admin.get_as("/api/v1/whoami").await;
    assert!(admin.admin && admin.username == "admin");

    let password = std::fs::read_to_string(&file).unwrap();
    let hub = hub.restart().await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), password, "the second start makes no other");
    hub.stop().await;
}

#[tokio::test]
async fn a_session_ends_with_logout_and_a_wrong_password_gives_none() {
    let hub = TestHub::start().await;
    let ann = hub.user("ann").await;
    let second = Client::log_in(&ann.url, "ann", PASSWORD).await.unwrap();
    assert_eq!(ann.post("/api/v1/logout", &json!({})).await.0, StatusCode::NO_CONTENT);
    assert_eq!(ann.get("/api/v1/whoami").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(second.get("/api/v1/whoami").await.0, StatusCode::OK);
    for (name, password) in [("ann", "wrong password"), ("nobody", PASSWORD), ("", "")] {
        let refused = Client::log_in(&ann.url, name, password).await.err();
        assert_eq!(refused, Some(StatusCode::UNAUTHORIZED), "{name}");
    }
    hub.stop().await;
}

#[tokio::test]
async fn guessing_is_slowed_down_for_that_name_and_address_only() {
    let hub = TestHub::start().await;
    let url = hub.anonymous().url;
    hub.user("ann").await;
    for _ in 0..10 {
        let refused = Client::log_in(&url, "bob", "a wrong one").await.err();
        assert_eq!(refused, Some(StatusCode::UNAUTHORIZED));
    }
    assert_eq!(Client::log_in(&url, "bob", "a wrong one").await.err(), Some(StatusCode::TOO_MANY_REQUESTS));
    assert!(Client::log_in(&url, "ann", PASSWORD).await.is_ok());
    hub.user_named("bob").await;
    assert_eq!(Client::log_in(&url, "bob", PASSWORD).await.err(), Some(StatusCode::TOO_MANY_REQUESTS));
    let elsewhere = std::net::IpAddr::from([127, 0, 0, 2]);
    assert!(Client::log_in_from(elsewhere, &url, "bob", PASSWORD).await.is_ok(), "bob himself gets in");
    hub.stop().await;
}

#[tokio::test]
async fn an_api_key_works_as_bearer_and_as_basic_until_it_is_revoked() {
    let hub = TestHub::start().await;
    let ann = hub.user("ann").await;
    let key: Token = ann.post_as("/api/v1/keys", &CreateKey { name: "ci".into() }).await;
    assert!(key.token.starts_with("dsk_") && key.expires_ms.is_none());
    assert_eq!(ann.with_token(&key.token).get("/api/v1/whoami").await.0, StatusCode::OK);

    let anonymous = hub.anonymous();
    let basic =
        |name: &str| anonymous.request(Method::GET, "/api/v1/whoami").basic_auth(name, Some(&key.token));
    assert_eq!(anonymous.send(basic("ann")).await.0, StatusCode::OK);
    assert_eq!(anonymous.send(basic("admin")).await.0, StatusCode::UNAUTHORIZED);

    let keys: Page<ApiKey> = ann.get_as("/api/v1/keys").await;
    assert_eq!(keys.items.len(), 1);
    assert!(keys.items[0].used_ms.is_some());
    let path = format!("/api/v1/keys/{}", keys.items[0].id);
    assert_eq!(hub.admin.delete(&path).await.0, StatusCode::NOT_FOUND, "another's key");
    assert_eq!(ann.delete(&path).await.0, StatusCode::NO_CONTENT);
    assert_eq!(ann.with_token(&key.token).get("/api/v1/whoami").await.0, StatusCode::UNAUTHORIZED);
    hub.stop().await;
}

#[tokio::test]
async fn a_user_without_a_password_gets_one_and_names_are_checked() {
    let hub = TestHub::start().await;
    let request = CreateUser { username: "eve".into(), password: None, admin: false };
    let made: CreatedUser = hub.admin.post_as("/api/v1/users", &request).await;
    assert!(Client::log_in(&hub.anonymous().url, "eve", &made.password.unwrap()).await.is_ok());
    assert_eq!(hub.admin.post("/api/v1/users", &request).await.0, StatusCode::CONFLICT);
    for (name, password) in
        [("Eve", "long enough"), ("", "long enough"), ("a/b", "long enough"), ("tim", "short")]
    {
        let request = CreateUser { username: name.into(), password: Some(password.into()), admin: false };
        assert_eq!(hub.admin.post("/api/v1/users", &request).await.0, StatusCode::BAD_REQUEST, "{name}");
    }
    hub.stop().await;
}

#[tokio::test]
async fn bad_requests_are_answered_in_json() {
    let hub = TestHub::start().await;
    let cases = [
        (hub.admin.request(Method::GET, "/api/v1/nothing"), StatusCode::NOT_FOUND),
        (hub.admin.request(Method::PATCH, "/api/v1/keys"), StatusCode::METHOD_NOT_ALLOWED),
        (hub.admin.request(Method::POST, "/api/v1/keys").body("x"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (
            hub.admin
                .request(Method::POST, "/api/v1/keys")
                .header("content-type", "application/json")
                .body("{"),
            StatusCode::BAD_REQUEST,
        ),
        (
            hub.admin
                .request(Method::POST, "/api/v1/keys")
                .header("content-type", "application/json")
                .body(vec![b' '; 17 << 20]),
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
        (hub.admin.request(Method::DELETE, "/api/v1/keys/x"), StatusCode::BAD_REQUEST),
    ];
    for (request, expected) in cases {
        let (status, body) = hub.admin.send(request).await;
        assert_eq!(status, expected, "{body}");
        assert!(body["code"].is_string() && body["message"].is_string(), "{body}");
    }
    hub.stop().await;
}

#[tokio::test]
async fn the_public_pages_answer_and_readiness_names_what_is_away() {
    let hub = TestHub::start().await;
    let anonymous = hub.anonymous();
    for path in ["/", "/healthz", "/metrics", "/api/v1/openapi.json", "/api/v1/hub"] {
        let response = anonymous.request(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert!(response.headers().contains_key("x-request-id"));
    }
    let page = anonymous.request(Method::GET, "/").send().await.unwrap().text().await.unwrap();
    assert!(page.contains("ds login") && !page.contains("src="));
    let metrics = anonymous.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("ds_hub_http_requests_total"), "{metrics}");
    let (status, body) = anonymous.get("/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("the store") && !message.contains("the database"), "{message}");
    hub.stop().await;
}

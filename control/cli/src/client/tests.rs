//! Errors, against a stand-in for a hub. What a hub really answers is tested with the hub.

use axum::{Json, Router, http::StatusCode, routing::get};
use ds_domain::api::{ErrorBody, HubInfo, User};

use super::*;
use crate::config::parse_url;

async fn stand_in(version: &'static str) -> Url {
    let hub = HubInfo {
        version: version.into(),
        node_address: "hub:7601".into(),
        ca_pem: String::new(),
        default_image: "python".into(),
    };
    let error =
        |status, message: &str| (status, Json(ErrorBody { code: "x".into(), message: message.into() }));
    let refused = error(StatusCode::UNAUTHORIZED, "who are you?");
    let missing = error(StatusCode::NOT_FOUND, "no project nowhere: see `ds project ls`");
    let api = Router::new()
        .route("/hub", get(async move || Json(hub)))
        .route("/whoami", get(async move || refused))
        .route("/projects/nowhere", get(async move || missing))
        .route("/projects/a%2Fb", get(async || "not json"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = parse_url(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    // Ends with the test's runtime.
    tokio::spawn(async move { axum::serve(listener, Router::new().nest("/api/v1", api)).await });
    url
}

async fn whoami(client: &Client) -> Error {
    client.get(&["whoami"]).json::<User>().await.unwrap_err()
}

#[tokio::test]
async fn a_401_says_how_to_log_in() {
    let url = stand_in(VERSION).await;
    let error = whoami(&Client::new(url.clone(), Credentials::None)).await;
    assert!(matches!(error, Error::NotLoggedIn { .. }), "{error:?}");
    assert!(error.to_string().contains("ds login") && !error.is_retryable());
    let error = whoami(&Client::new(url, Credentials::Token("old".into()))).await;
    assert!(error.to_string().contains("does not accept this login"), "{error}");
}

#[tokio::test]
async fn the_hubs_own_words_are_passed_on() {
    let client = Client::new(stand_in(VERSION).await, Credentials::None);
    let error = client.get(&["projects", "nowhere"]).done().await.unwrap_err();
    assert_eq!(error.to_string(), "no project nowhere: see `ds project ls`");
    assert!(error.is_not_found() && !error.is_retryable());
}

#[tokio::test]
async fn an_answer_of_another_version_names_both() {
    let client = Client::new(stand_in("9.8.7").await, Credentials::None);
    // A slash in a name stays in its segment.
    let error = client.get(&["projects", "a/b"]).json::<User>().await.unwrap_err().to_string();
    assert!(error.contains("9.8.7") && error.contains(VERSION), "{error}");
}

#[tokio::test]
async fn a_hub_that_is_away_is_named_and_may_come_back() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = parse_url(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    drop(listener);
    let error = whoami(&Client::new(url.clone(), Credentials::None)).await;
    assert!(error.is_retryable());
    let text = error.to_string();
    assert!(text.contains(&shown(&url)) && text.contains("refused") && text.contains("DS_URL"), "{text}");
}

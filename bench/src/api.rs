//! The hub's HTTP API as a program calls it: one kept-alive connection.

use anyhow::{Context, Result, ensure};
use ds_tests::System;
use reqwest::RequestBuilder;
use serde_json::Value;

/// A caller with an API key.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    client: reqwest::Client,
    base: String,
    key: String,
}

impl Api {
    /// As the system's admin.
    pub(crate) fn of(system: &System) -> Result<Self> {
        let client = reqwest::Client::builder().build()?;
        Ok(Self { client, base: format!("{}/api/v1", system.url()), key: system.api_key()? })
    }

    /// `GET path`.
    pub(crate) async fn fetch(&self, path: &str) -> Result<Value> {
        answer(self.client.get(format!("{}{path}", self.base)).bearer_auth(&self.key)).await
    }

    /// `POST path` with a JSON body.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        answer(self.client.post(format!("{}{path}", self.base)).bearer_auth(&self.key).json(body)).await
    }
}

async fn answer(request: RequestBuilder) -> Result<Value> {
    let response = request.send().await?;
    let status = response.status();
    let text = response.text().await?;
    ensure!(status.is_success(), "{status}: {text}");
    serde_json::from_str(&text).context("not JSON")
}

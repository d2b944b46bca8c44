//! The hub's HTTP API, as this program calls it.
//!
//! A call is built from path segments, so that a name with a slash or a space in it stays one segment.

use std::{fmt::Display, time::Duration};

use bytes::Bytes;
use ds_domain::api::{ErrorBody, HubInfo, LoginRequest, Page, Token};
use futures_util::{Stream, StreamExt};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::OnceCell;

use crate::config::{Credentials, is_loopback};

mod error;

pub(crate) use error::{Error, shown};

/// This program's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long a call may take that moves no files.
const CALL: Duration = Duration::from_mins(1);
/// Items asked for in one page.
const PAGE: u32 = 200;

/// One hub, asked as one person.
pub(crate) struct Client {
    http: reqwest::Client,
    url: Url,
    credentials: Credentials,
    /// What a password was traded for, once.
    session: OnceCell<String>,
}

impl Client {
    pub(crate) fn new(url: Url, credentials: Credentials) -> Self {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("ds/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .tcp_keepalive(Duration::from_secs(15));
        if is_loopback(&url) {
            builder = builder.no_proxy();
        }
        let http = builder.build().expect("the client's settings are valid and the system has certificates");
        Self { http, url, credentials, session: OnceCell::new() }
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn get(&self, path: &[&str]) -> Call<'_> {
        self.call(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &[&str]) -> Call<'_> {
        self.call(Method::POST, path)
    }

    pub(crate) fn put(&self, path: &[&str]) -> Call<'_> {
        self.call(Method::PUT, path)
    }

    pub(crate) fn delete(&self, path: &[&str]) -> Call<'_> {
        self.call(Method::DELETE, path)
    }

    /// Trades a password for a session.
    pub(crate) async fn login(&self, username: &str, password: &str) -> Result<Token, Error> {
        let request = LoginRequest { username: username.to_owned(), password: password.to_owned() };
        self.post(&["login"]).anonymous().body(&request).json().await
    }

    /// What the hub says about itself; needs no login.
    pub(crate) async fn hub(&self) -> Result<HubInfo, Error> {
        self.get(&["hub"]).anonymous().json().await
    }

    fn call(&self, method: Method, path: &[&str]) -> Call<'_> {
        let mut url = self.url.clone();
        url.path_segments_mut()
            .expect("a hub's URL is http or https")
            .pop_if_empty()
            .extend(["api", "v1"])
            .extend(path);
        Call { client: self, request: self.http.request(method, url), anonymous: false, slow: false }
    }

    async fn token(&self) -> Result<Option<&str>, Error> {
        match &self.credentials {
            Credentials::None => Ok(None),
            Credentials::Token(token) => Ok(Some(token)),
            Credentials::Password { username, password } => {
                let login =
                    async || Box::pin(self.login(username, password)).await.map(|session| session.token);
                self.session.get_or_try_init(login).await.map(|token| Some(token.as_str()))
            }
        }
    }

    /// Turns an answer that is not 2xx into an error.
    async fn refusal(&self, response: Response, anonymous: bool) -> Error {
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED && !anonymous {
            let url = shown(&self.url);
            return match self.credentials {
                Credentials::None => Error::NotLoggedIn { url },
                _ => Error::LoginRefused { url },
            };
        }
        match response.json::<ErrorBody>().await {
            Ok(body) => Error::Refused { status, code: body.code, message: body.message },
            Err(_) => self.misunderstood(status).await,
        }
    }

    /// Finds out who it is that answers in a way that cannot be understood.
    async fn misunderstood(&self, status: StatusCode) -> Error {
        let hub = match self.get(&["hub"]).anonymous().send().await {
            Ok(response) if response.status().is_success() => response.json::<HubInfo>().await.ok(),
            _ => None,
        };
        let advice = match hub {
            Some(hub) if hub.version != VERSION => {
                format!("the hub is version {}, install the same version of ds", hub.version)
            }
            Some(_) => {
                "it is a hub of this version, so a proxy on the way may have answered; see the hub's log"
                    .into()
            }
            None => "it does not look like a Dotstream hub, check the URL".into(),
        };
        Error::Misunderstood { url: shown(&self.url), status, advice }
    }
}

/// One request, being built.
pub(crate) struct Call<'a> {
    client: &'a Client,
    request: RequestBuilder,
    anonymous: bool,
    slow: bool,
}

impl Call<'_> {
    /// Sends no credentials.
    pub(crate) fn anonymous(mut self) -> Self {
        self.anonymous = true;
        self
    }

    /// Adds `?name=value`.
    pub(crate) fn query(mut self, name: &str, value: impl Display) -> Self {
        self.request = self.request.query(&[(name, value.to_string())]);
        self
    }

    /// Adds `?name=value` if there is a value.
    pub(crate) fn query_some(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// Sends `body` as JSON.
    pub(crate) fn body(mut self, body: &impl Serialize) -> Self {
        self.request = self.request.json(body);
        self
    }

    /// Sends a tar of unknown length, for as long as it takes.
    pub(crate) fn tar(mut self, body: reqwest::Body) -> Self {
        self.request = self.request.header("content-type", "application/x-tar").body(body);
        self.slow = true;
        self
    }

    /// Sends it and reads an object.
    pub(crate) async fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        let client = self.client;
        let response = self.accepted().await?;
        let status = response.status();
        match response.json().await {
            Ok(value) => Ok(value),
            Err(error) if error.is_decode() => Err(client.misunderstood(status).await),
            Err(error) => Err(Error::receiving(&client.url, &error)),
        }
    }

    /// Sends it; the answer's body does not matter.
    pub(crate) async fn done(self) -> Result<(), Error> {
        self.accepted().await.map(drop)
    }

    /// Sends it and reads bytes as they come, for as long as they come.
    pub(crate) async fn bytes(mut self) -> Result<impl Stream<Item = Result<Bytes, Error>> + use<>, Error> {
        self.slow = true;
        let url = self.client.url.clone();
        let response = self.accepted().await?;
        Ok(response.bytes_stream().map(move |part| part.map_err(|error| Error::receiving(&url, &error))))
    }

    /// Asks page after page, until there are `limit` items or no more; one page has all of them.
    pub(crate) async fn pages<T: DeserializeOwned>(self, limit: Option<usize>) -> Result<Page<T>, Error> {
        let limit = limit.unwrap_or(usize::MAX);
        let mut items: Vec<T> = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let wanted = PAGE.min(u32::try_from(limit - items.len()).unwrap_or(PAGE));
            let page: Page<T> =
                self.repeat().query("limit", wanted).query_some("cursor", cursor.as_deref()).json().await?;
            items.extend(page.items);
            items.truncate(limit);
            // A cursor that does not move on would be followed for ever.
            if items.len() >= limit || page.next.is_none() || page.next == cursor {
                return Ok(Page { items, next: page.next });
            }
            cursor = page.next;
        }
    }

    fn repeat(&self) -> Self {
        let request = self.request.try_clone().expect("a call without a streamed body can be repeated");
        Self { client: self.client, request, anonymous: self.anonymous, slow: self.slow }
    }

    async fn accepted(self) -> Result<Response, Error> {
        let (client, anonymous) = (self.client, self.anonymous);
        let response = self.send().await?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(client.refusal(response, anonymous).await)
        }
    }

    async fn send(mut self) -> Result<Response, Error> {
        if !self.anonymous
            && let Some(token) = self.client.token().await?
        {
            self.request = self.request.bearer_auth(token);
        }
        if !self.slow {
            self.request = self.request.timeout(CALL);
        }
        self.request.send().await.map_err(|error| Error::sending(&self.client.url, &error))
    }
}

#[cfg(test)]
mod tests;

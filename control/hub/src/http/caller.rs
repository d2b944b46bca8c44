//! Who is asking: the one extractor through which every route but the public ones learns it.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use ds_db::TokenHash;
use ds_domain::api::User;

use super::problem::Problem;
use crate::{
    auth::secret::{KEY_PREFIX, SESSION_PREFIX, token_hash},
    clock::now_ms,
    core::Core,
};

/// A person who proved who they are, with a session or an API key.
pub(crate) struct Caller {
    pub(crate) user: User,
    /// Set if they came with a session.
    pub(crate) session: Option<TokenHash>,
}

/// What a request shows.
#[derive(Debug, PartialEq)]
enum Shown {
    Token(String),
    /// HTTP Basic, as the original client does: a user name, and an API key in the place of the password.
    Basic {
        username: String,
        key: String,
    },
}

impl FromRequestParts<Arc<Core>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, core: &Arc<Core>) -> Result<Self, Problem> {
        let caller = match shown(&parts.headers)? {
            Shown::Token(token) if token.starts_with(SESSION_PREFIX) => {
                let hash = token_hash(&token);
                let user = core.db.session_user(hash, now_ms()).await?;
                user.map(|user| Self { user, session: Some(hash) })
            }
            Shown::Token(token) => key_owner(core, &token).await?,
            Shown::Basic { username, key } => {
                key_owner(core, &key).await?.filter(|caller| caller.user.username == username)
            }
        };
        caller.ok_or_else(|| {
            Problem::unauthorized(
                "this token or API key is unknown, expired or revoked: log in again, or make a new key",
            )
        })
    }
}

async fn key_owner(core: &Core, key: &str) -> Result<Option<Caller>, Problem> {
    if !key.starts_with(KEY_PREFIX) {
        return Ok(None);
    }
    let user = core.db.key_user(token_hash(key), now_ms()).await?;
    Ok(user.map(|user| Caller { user, session: None }))
}

fn shown(headers: &HeaderMap) -> Result<Shown, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(Problem::unauthorized(
            "this needs a login: send `Authorization: Bearer <token>` with a session's token or an API key",
        ));
    };
    let unreadable = || {
        Problem::unauthorized(
            "the Authorization header is neither `Bearer <token>` nor `Basic <username:API key>`",
        )
    };
    let (scheme, rest) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(unreadable)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Shown::Token(rest.trim().to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(unreadable());
    }
    let decoded = STANDARD.decode(rest.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let (username, key) = decoded.as_deref().and_then(|text| text.split_once(':')).ok_or_else(unreadable)?;
    Ok(Shown::Basic { username: username.to_owned(), key: key.to_owned() })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn read(value: &str) -> Option<Shown> {
        read_bytes(value.as_bytes())
    }

    fn read_bytes(value: &[u8]) -> Option<Shown> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_bytes(value).ok()?);
        shown(&headers).ok()
    }

    #[test]
    fn bearer_and_basic_are_read() {
        assert_eq!(read("bearer dss_x"), Some(Shown::Token("dss_x".into())));
        let basic = Shown::Basic { username: "ann".into(), key: "dsk_1:2".into() };
        assert_eq!(read("Basic YW5uOmRza18xOjI="), Some(basic));
        for bad in ["", "Bearer", "Basic !!", "Basic YW5u", "Digest x"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        assert!(shown(&HeaderMap::new()).is_err());
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..100), scheme in "[bB](asic|earer) {0,2}",
            inside in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let _ = read_bytes(&bytes);
            let _ = read_bytes(&[scheme.as_bytes(), &bytes].concat());
            let _ = read(&format!("{scheme}{}", STANDARD.encode(inside)));
        }

        #[test]
        fn a_token_is_read_as_it_was_sent(scheme in "[bB][eE][aA][rR][eE][rR]", token in "[!-~]{1,60}") {
            prop_assert_eq!(read(&format!("{scheme} {token}")), Some(Shown::Token(token)));
        }

        #[test]
        fn a_name_and_a_key_are_read_as_they_were_sent(
            scheme in "[bB][aA][sS][iI][cC]", username in "[^:]{0,30}", key in any::<String>(),
        ) {
            let sent = format!("{scheme} {}", STANDARD.encode(format!("{username}:{key}")));
            prop_assert_eq!(read(&sent), Some(Shown::Basic { username, key }));
        }
    }
}

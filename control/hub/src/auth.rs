//! Who is asking, and how they prove it.
//!
//! A password is checked once, at login, and traded for a session token; programs use API keys. Both are
//! random, and the hub keeps only their SHA-256. Start reading at [`password`]; what somebody may do is decided
//! in [`crate::access`].

pub(crate) mod limiter;
pub(crate) mod password;
pub(crate) mod secret;

/// Bytes of a user name.
pub(crate) const MAX_USERNAME: usize = 64;

/// Bytes of a password.
pub(crate) const MAX_PASSWORD: usize = 1024;

/// How long a session lasts: 30 days.
pub(crate) const SESSION_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// How long a registration token works: a day.
pub(crate) const REGISTRATION_MS: i64 = 24 * 60 * 60 * 1000;

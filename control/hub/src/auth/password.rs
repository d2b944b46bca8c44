//! Passwords: argon2id, off the async threads, a few at a time.
//!
//! Each check costs 19 MiB and some tens of milliseconds by design, so that a flood of logins waits in line
//! instead of eating the machine.

use std::sync::Arc;

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use tokio::sync::Semaphore;

/// Checks under way at once; the others wait.
const AT_ONCE: usize = 2;

/// 46 MiB and one pass: one of OWASP's equivalent settings for Argon2id (Password Storage Cheat Sheet). Of them it is the one
/// that the C library maps and unmaps by itself (above 32 MiB), so that a hub at rest does not keep the memory of its last
/// login.
const MEMORY_KIB: u32 = 47_104;
const PASSES: u32 = 1;

/// Hashes and checks passwords. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Passwords {
    slots: Arc<Semaphore>,
    /// The hash of a password nobody has: checked for unknown users, so that the time taken does not tell who
    /// exists.
    decoy: Arc<str>,
}

impl Passwords {
    pub(crate) fn new() -> Self {
        let decoy = hash_now(&super::secret::random_password());
        Self { slots: Arc::new(Semaphore::new(AT_ONCE)), decoy: decoy.into() }
    }

    /// The PHC string to keep.
    pub(crate) async fn hash(&self, password: String) -> String {
        self.off_thread(move || hash_now(&password)).await
    }

    /// Whether `password` is the one behind `hash`. Takes as long where there is no such user (`None`).
    pub(crate) async fn verify(&self, password: String, hash: Option<String>) -> bool {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.decoy.to_string());
        let matches = self.off_thread(move || matches_now(&password, &hash)).await;
        matches && known
    }

    async fn off_thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        tokio::task::spawn_blocking(work).await.expect("hashing does not panic")
    }
}

fn hash_now(password: &str) -> String {
    let parameters = Params::new(MEMORY_KIB, PASSES, 1, None).expect("these parameters are valid");
    let hash: argon2::PasswordHash = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
        .hash_password(password.as_bytes())
        .expect("any password can be hashed");
    hash.to_string()
}

fn matches_now(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_of_a_known_user_passes() {
        let passwords = Passwords::new();
        let hash = passwords.hash("correct horse".into()).await;
        assert!(hash.starts_with("$argon2id$"));
        assert!(passwords.verify("correct horse".into(), Some(hash.clone())).await);
        assert!(!passwords.verify("wrong horse".into(), Some(hash)).await);
        assert!(!passwords.verify("correct horse".into(), None).await);
    }
}

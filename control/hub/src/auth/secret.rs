//! Random secrets and what the hub keeps of them.

use aws_lc_rs::{digest, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ds_db::TokenHash;

/// Starts every session token.
pub(crate) const SESSION_PREFIX: &str = "dss_";
/// Starts every API key.
pub(crate) const KEY_PREFIX: &str = "dsk_";

/// A prefix and 256 random bits.
pub(crate) fn random_token(prefix: &str) -> String {
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(random_bytes::<32>()))
}

/// A password that is safe to type: 96 random bits in hex, in groups of four.
pub(crate) fn random_password() -> String {
    let digits = hex::encode(random_bytes::<12>());
    digits.as_bytes().chunks(4).map(|group| String::from_utf8_lossy(group)).collect::<Vec<_>>().join("-")
}

/// What the database keeps of a token. Tokens have 256 random bits, so that a slow hash would add nothing.
pub(crate) fn token_hash(token: &str) -> TokenHash {
    TokenHash(sha256(token.as_bytes()))
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_their_hashes_are_stable() {
        let token = random_token(KEY_PREFIX);
        assert!(token.starts_with("dsk_") && token.len() == 4 + 43);
        assert_ne!(token, random_token(KEY_PREFIX));
        assert_eq!(
            hex::encode(sha256(b"abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_random_password_has_six_groups() {
        assert_eq!(random_password().split('-').map(str::len).collect::<Vec<_>>(), [4; 6]);
    }
}

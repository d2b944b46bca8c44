//! The committed description of the API is the one that the code gives.

use std::{fs, path::Path};

#[test]
fn the_committed_document_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let generated = ds_hub::openapi();
    if std::env::var_os("DS_REGENERATE").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap();
    assert!(
        committed == generated,
        "openapi.json is stale: run this test with DS_REGENERATE=1 and commit it"
    );
}

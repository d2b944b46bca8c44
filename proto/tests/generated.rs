//! The committed code is what the `.proto` files say. `DS_REGENERATE=1` writes it anew.

use std::{fs, path::Path};

#[test]
fn committed_code_matches_the_proto_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    let files = protox::compile(["dotstream/control.proto", "dotstream/data.proto"], [root]).unwrap();
    tonic_prost_build::configure()
        .bytes(".dotstream.v1.LogChunk.data")
        // Far larger than what else may begin a stream.
        .boxed(".dotstream.v1.StreamOpen.kind.tree")
        .out_dir(out.path())
        .compile_fds(files)
        .unwrap();
    let fresh = fs::read_to_string(out.path().join("dotstream.v1.rs")).unwrap();
    let committed = root.join("src/gen/dotstream.v1.rs");
    if std::env::var_os("DS_REGENERATE").is_some() {
        fs::create_dir_all(committed.parent().unwrap()).unwrap();
        fs::write(&committed, &fresh).unwrap();
    }
    let kept = fs::read_to_string(&committed).unwrap_or_default();
    assert!(kept == fresh, "{} is out of date: run with DS_REGENERATE=1", committed.display());
}

//! The committed OpenAPI document is the one the types generate.
//! `UPDATE_GOLDENS=1 cargo test -p openapi` writes it anew.

use std::path::Path;

#[test]
fn the_committed_document_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let generated = openapi::document::document_text();
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "openapi/openapi.json is out of date; refresh it with UPDATE_GOLDENS=1 cargo test -p openapi and read the change"
    );
}

#[test]
fn every_reference_resolves() {
    let document = openapi::document::document();
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer} does not exist");
    }
}

//! The `janus` binary.

fn main() {}

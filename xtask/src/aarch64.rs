//! The other architecture with kernels of its own, as seen from a machine of the first.

use std::path::Path;

use crate::process::{command, output};

pub const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Whether Rust's library for it is installed: what compiling for it needs.
pub fn has_library() -> anyhow::Result<bool> {
    let folder = output(command("rustc").args(["--print", "target-libdir", "--target", TARGET]))?;
    Ok(Path::new(folder.trim()).is_dir())
}

/// What to install when it is not.
pub fn no_library() -> String {
    format!("no Rust library for {TARGET} (rustup target add {TARGET})")
}

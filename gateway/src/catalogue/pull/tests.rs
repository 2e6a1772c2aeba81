//! Pulls against file servers of every temper, on loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::super::partial::part_path;
use super::super::{Catalogue, HubRepository};
use super::*;

/// How a file server treats its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Temper {
    /// Whole files and ranges.
    Good,
    /// Ignores `Range` and sends everything.
    WholeOnly,
    /// Answers ranges from the beginning, under a label that says so.
    WrongRange,
    /// Announces the whole file and closes after this many bytes; good on the next connection.
    BreaksOnce(usize),
    /// The right number of wrong bytes.
    WrongBytes,
    /// A file of another size.
    Longer,
    Absent,
    ServerError,
    /// Takes the request and never answers.
    Hangs,
}

/// A file server and the `Range` header of each request it got (empty when there was none).
struct FileServer {
    url: String,
    ranges: Arc<Mutex<Vec<String>>>,
}

impl FileServer {
    fn start(temper: Temper, contents: Vec<u8>) -> FileServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let ranges = Arc::new(Mutex::new(Vec::new()));
        let log = ranges.clone();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().flatten() {
                let range = read_request(&stream);
                let first = log.lock().unwrap().is_empty();
                log.lock().unwrap().push(range.clone());
                answer(&stream, temper, &contents, &range, first);
                if temper == Temper::Hangs {
                    held.push(stream);
                }
            }
        });
        FileServer { url, ranges }
    }

    fn ranges(&self) -> Vec<String> {
        self.ranges.lock().unwrap().clone()
    }
}

/// Reads a request's head; returns its range.
fn read_request(stream: &TcpStream) -> String {
    let mut range = String::new();
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("range: ") {
            range = value.to_owned();
        }
    }
    range
}

fn answer(mut stream: &TcpStream, temper: Temper, contents: &[u8], range: &str, first: bool) {
    let from: usize =
        range.strip_prefix("bytes=").and_then(|rest| rest.trim_end_matches('-').parse().ok()).unwrap_or(0);
    let wrong: Vec<u8> = contents.iter().map(|byte| byte ^ 1).collect();
    let longer = [contents, b"!"].concat();
    let (status, start, body): (&str, usize, &[u8]) = match temper {
        Temper::Hangs => return,
        Temper::Absent => ("404 Not Found", 0, b"no such file"),
        Temper::ServerError => ("503 Service Unavailable", 0, b"later"),
        Temper::WholeOnly => ("200 OK", 0, contents),
        Temper::Longer => ("200 OK", 0, &longer),
        Temper::WrongRange if from > 0 => ("206 Partial Content", 0, contents),
        Temper::WrongBytes if from > 0 => ("206 Partial Content", from, &wrong[from..]),
        Temper::WrongBytes => ("200 OK", 0, &wrong),
        _ if from > contents.len() => ("416 Range Not Satisfiable", 0, b""),
        _ if from > 0 => ("206 Partial Content", from, &contents[from..]),
        _ => ("200 OK", 0, contents),
    };
    let sent = match temper {
        Temper::BreaksOnce(bytes) if first => &body[..bytes],
        _ => body,
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-range: bytes {start}-{}/{}\r\nconnection: close\r\n\r\n",
        body.len(),
        contents.len().saturating_sub(1),
        contents.len(),
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(sent);
}

/// Collects what the user would read.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Report for Notes {
    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
    fn start(&self, _label: &str, _total: u64, _at: u64) {}
    fn at(&self, _at: u64) {}
    fn end(&self) {}
}

fn contents() -> Vec<u8> {
    (0..300_000_u32).flat_map(|n| n.to_le_bytes()).collect()
}

/// A model of one file with these contents.
fn model(contents: &[u8]) -> ModelEntry {
    let mut model = Catalogue::built_in().find("smollm2-135m-instruct").unwrap().clone();
    model.hub = Some(HubRepository { repo: "o/r".into(), revision: "main".into() });
    let file = &mut model.files[0];
    file.path = "model.gguf".into();
    file.bytes = contents.len() as u64;
    file.sha256 = Sha256::digest(contents).iter().map(|byte| format!("{byte:02x}")).collect();
    model
}

const OPTIONS: PullOptions<'static> = PullOptions { accept_licence: false, from: None };

struct Outcome {
    result: Result<(), CatalogueError>,
    notes: Vec<String>,
    placed: Option<Vec<u8>>,
    part_left: bool,
}

/// Pulls the model of [`contents`] from `order`, with `before` in the part file.
fn pull_with(order: Vec<Source>, before: &[u8]) -> Outcome {
    let home = tempfile::tempdir().unwrap();
    let (store, contents) = (Store::new(home.path()), contents());
    let model = model(&contents);
    let target = store.file(&model, &model.files[0]);
    if !before.is_empty() {
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(part_path(&target), before).unwrap();
    }
    let limit = Duration::from_millis(500);
    let http = Http::with_limits(limit, limit, limit);
    let sources = Sources { order, http, pip: Pip::new(store.work_folder(&model)) };
    let notes = Notes::default();
    let result = pull_from(sources, &store, &model, &OPTIONS, &notes);
    let notes = notes.0.into_inner().unwrap();
    Outcome { result, notes, placed: fs::read(&target).ok(), part_left: part_path(&target).exists() }
}

/// One server of this temper, `before` already here: the ranges asked for, and the words of the error
/// (none when the file gets into its place).
fn check(temper: Temper, before: &[u8], ranges: &[&str], error: Option<&str>) {
    let server = FileServer::start(temper, contents());
    let outcome = pull_with(vec![Source::Url(server.url.clone())], before);
    assert_eq!(server.ranges(), ranges, "{temper:?}");
    match (error, outcome.result) {
        (None, Ok(())) => assert!(outcome.placed == Some(contents()), "{temper:?}: right bytes in place"),
        (Some(words), Err(error)) => {
            let text = error.to_string();
            assert!(text.contains(words) && text.contains("--from"), "{temper:?}: {text}");
            assert_eq!(outcome.placed, None, "{temper:?}: nothing in place");
        }
        (expected, found) => panic!("{temper:?}: expected {expected:?}, found {found:?}"),
    }
}

#[test]
fn one_source() {
    let whole = contents();
    let half = &whole[..600_000];
    check(Temper::Good, b"", &[""], None);
    check(Temper::Good, half, &["bytes=600000-"], None);
    check(Temper::Good, &whole, &[], None);
    check(Temper::WholeOnly, half, &["bytes=600000-"], None);
    check(Temper::WrongRange, half, &["bytes=600000-"], Some("another range"));
    check(Temper::BreaksOnce(400_000), b"", &["", "bytes=400000-"], None);
    check(Temper::BreaksOnce(0), b"", &[""], Some("broke off after 0 B"));
    check(Temper::WrongBytes, b"", &[""], Some("other contents"));
    check(Temper::Longer, b"", &[""], Some("another size"));
    check(Temper::Absent, b"", &[""], Some("404"));
    check(Temper::ServerError, b"", &[""], Some("503"));
    check(Temper::Hangs, b"", &[""], Some("does not answer"));
    // What lies here came from elsewhere and does not fit: once more from the beginning.
    check(Temper::Good, &[7; 600_000], &["bytes=600000-", ""], None);
    check(Temper::WrongBytes, half, &["bytes=600000-", ""], Some("other contents"));
}

#[test]
fn the_next_source_is_tried_within_seconds() {
    let tempers = [Temper::Hangs, Temper::Absent, Temper::WrongBytes, Temper::ServerError, Temper::Longer];
    for temper in tempers {
        let bad = FileServer::start(temper, contents());
        let good = FileServer::start(Temper::Good, contents());
        let order = vec![Source::Hub { endpoint: bad.url.clone() }, Source::Url(good.url.clone())];
        let start = Instant::now();
        let outcome = pull_with(order, b"");
        outcome.result.unwrap();
        assert!(start.elapsed() < Duration::from_secs(3), "{temper:?}: {:?}", start.elapsed());
        assert!(outcome.placed == Some(contents()) && !outcome.part_left, "{temper:?}");
        assert_eq!(
            outcome.notes.len(),
            2,
            "one line for the failure, one for the success: {:?}",
            outcome.notes
        );
        assert!(outcome.notes[0].contains(&bad.url) && outcome.notes[0].contains("trying the next source"));
    }
}

#[test]
fn a_closed_port_is_no_obstacle() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let good = FileServer::start(Temper::Good, contents());
    let order = vec![Source::Hub { endpoint: format!("http://{closed}") }, Source::Url(good.url.clone())];
    pull_with(order, b"").result.unwrap();
}

#[test]
fn files_on_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    };
    let whole = contents();
    let wrong: Vec<u8> = whole.iter().map(|byte| byte ^ 1).collect();
    let rows = [
        (at("any-name.gguf", &whole), b"".as_slice(), None),
        (at("folder/model.gguf", &whole).parent().unwrap().to_owned(), b"", None),
        (at("again.gguf", &whole), &whole[..1000], None),
        (at("short.gguf", b"abc"), b"", Some("another size")),
        (at("wrong.gguf", &wrong), b"", Some("other contents")),
        (folder.path().join("nothing"), b"", Some("No such file")),
    ];
    for (path, before, error) in rows {
        let outcome = pull_with(vec![Source::Path(path.clone())], before);
        match error {
            None => assert!(outcome.result.is_ok() && outcome.placed == Some(contents()), "{path:?}"),
            Some(words) => {
                let text = outcome.result.unwrap_err().to_string();
                assert!(text.contains(words) && outcome.placed.is_none(), "{path:?}: {text}");
            }
        }
    }
}

#[test]
fn two_pulls_at_once_fetch_once() {
    let home = tempfile::tempdir().unwrap();
    let (store, model) = (Store::new(home.path()), model(&contents()));
    let server = FileServer::start(Temper::Good, contents());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let options = PullOptions { accept_licence: false, from: Some(&server.url) };
                pull(&store, &model, &options, &Notes::default()).unwrap();
            });
        }
    });
    assert_eq!(server.ranges(), [""], "the second found the file in its place");
    assert_eq!(store.installed(&model), Installed::Complete);
}

#[test]
fn terms_need_consent() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::new(home.path());
    let mut model = model(&contents());
    let file = home.path().join("model.gguf");
    fs::write(&file, contents()).unwrap();
    let from = file.to_str();
    let mut refused = |commercial: bool, terms: Option<&str>, words: &str| {
        (model.commercial, model.terms) = (commercial, terms.map(str::to_owned));
        let options = PullOptions { accept_licence: false, from };
        let text = pull(&store, &model, &options, &Notes::default()).unwrap_err().to_string();
        assert!(text.contains(words) && text.contains("--accept-license"), "{text}");
        assert_eq!(store.installed(&model), Installed::Missing);
    };
    refused(true, Some("You must not fly"), "You must not fly");
    refused(false, None, "forbids commercial use");
    let options = PullOptions { accept_licence: true, from };
    pull(&store, &model, &options, &Notes::default()).unwrap();
    assert_eq!(store.installed(&model), Installed::Complete);
}

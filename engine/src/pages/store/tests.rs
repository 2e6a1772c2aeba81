//! The store from end to end, and under SIGKILL.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::sampler::random::{CounterRandom, draw_seed};

const PAGE_BYTES: usize = 40_000;
const MODEL: [u8; 32] = [1; 32];
const ROOT: ChainHash = ChainHash([2; 32]);

fn hash(index: u32) -> ChainHash {
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&index.to_le_bytes());
    ChainHash(hash)
}

/// What page `index` holds.
fn content(index: u32) -> Vec<u8> {
    (0..PAGE_BYTES as u32).map(|i| (i.wrapping_mul(31) ^ index.wrapping_mul(7)) as u8).collect()
}

fn open(folder: &Path, pages_max: usize, key: Option<u8>) -> PageStore {
    let bytes_max = (pages_max * record::record_bytes(PAGE_BYTES)) as u64;
    let key = key.map(|byte| StoreKey([byte; 32]));
    PageStore::open(StoreOptions { folder: folder.to_owned(), bytes_max, key }).unwrap()
}

fn next_reply(client: &StoreClient) -> StoreReply {
    client.replies.recv().expect("the store lives")
}

fn read(client: &StoreClient, root: ChainHash, index: u32) -> Option<Vec<u8>> {
    assert!(client.read(root, hash(index), 5));
    loop {
        if let StoreReply::Read { hash: of, page, content, .. } = next_reply(client) {
            assert_eq!((of, page), (hash(index), 5));
            return content.map(|content| {
                let bytes = content.to_vec();
                client.recycle(content);
                bytes
            });
        }
    }
}

/// Pages a client hears of when it comes.
fn present(client: &StoreClient) -> Vec<ChainHash> {
    // Whatever is said before the answer to a read of something that is not there.
    assert!(client.read(ROOT, hash(u32::MAX), 0));
    let mut present = Vec::new();
    loop {
        match next_reply(client) {
            StoreReply::Present(hash) => present.push(hash),
            StoreReply::Read { .. } => return present,
            _ => {}
        }
    }
}

#[test]
fn pages_survive_a_restart_for_the_same_model_tenant_and_key() {
    for key in [None, Some(3)] {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), 10, key);
        let client = store.client(MODEL, PAGE_BYTES);
        for index in 0..4 {
            assert!(client.write_blocking(ROOT, hash(index), content(index)));
        }
        assert!(read(&client, ROOT, 2) == Some(content(2)), "at once");
        drop((store, client));

        let store = open(folder.path(), 10, key);
        let other_model = store.client([9; 32], PAGE_BYTES);
        assert_eq!(present(&other_model), []);
        assert_eq!(read(&other_model, ROOT, 1), None);
        let client = store.client(MODEL, PAGE_BYTES);
        assert_eq!(present(&client).len(), 4);
        assert!(read(&client, ROOT, 1) == Some(content(1)));
        assert_eq!(store.stats().pages, 4);
        // Another tenant's root in the same page's name: refused, and removed.
        assert_eq!(read(&client, ChainHash([8; 32]), 1), None);
        assert_eq!(read(&client, ROOT, 1), None);
        let stats = store.stats();
        assert_eq!((stats.pages, stats.read_pages, stats.refused_pages), (3, 1, 1));
        assert!(stats.missed_pages >= 1 && stats.errors == 0, "{stats:?}");
    }
}

#[test]
fn nobody_waits_for_the_disk_when_a_model_comes() {
    let folder = tempfile::tempdir().unwrap();
    let client = open(folder.path(), 100, None).client(MODEL, PAGE_BYTES);
    (0..3).for_each(|index| assert!(client.write_blocking(ROOT, hash(index), content(index))));
    drop(client);
    let (go_on, wait) = channel::<()>();
    let options = StoreOptions { folder: folder.path().to_owned(), bytes_max: 1 << 30, key: None };
    // A disk that takes its time before anything is known.
    let store = PageStore::open_after(options, move || _ = wait.recv()).unwrap();
    let first = store.client(MODEL, PAGE_BYTES);
    let mut taken = 0;
    while first.write(ROOT, hash(100 + taken), content(0)) {
        taken += 1;
    }
    assert!(taken > 0 && (taken as usize) < JOBS_MAX, "the line is full");
    let second = store.client(MODEL, PAGE_BYTES);
    assert!(first.reply_now().is_none() && second.reply_now().is_none());
    assert_eq!(store.stats(), StoreStats::default());
    drop(go_on);
    for client in [&first, &second] {
        let mut known = Vec::new();
        while known.len() < 3 {
            if let StoreReply::Present(hash) = next_reply(client) {
                known.push(hash);
            }
        }
        assert_eq!(known, [0, 1, 2].map(hash));
    }
}

#[test]
fn names_are_made_with_the_key_or_a_secret_of_the_folder() {
    let secret = |folder: &Path, key| *open(folder, 10, key).secret();
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [own, other, keyed] = folders.each_ref().map(tempfile::TempDir::path);
    assert_eq!(secret(own, None), secret(own, None), "also after a restart");
    assert_ne!(secret(own, None), secret(other, None));
    assert_eq!(secret(keyed, Some(3)), StoreKey([3; 32]).names_secret());
    // Nobody can tell it from what stands in the folder.
    let file = std::fs::read(keyed.join(secret::FILE)).unwrap();
    let told = [[3; 32], secret(keyed, Some(3))].map(|key| file.windows(32).any(|bytes| bytes == key));
    assert_eq!(told, [false; 2]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(own.join(secret::FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "for its owner only");
    }
    std::fs::write(own.join(secret::FILE), "torn").unwrap();
    let options = StoreOptions { folder: own.to_owned(), bytes_max: 1 << 20, key: None };
    let refusal = PageStore::open(options).unwrap_err().to_string();
    assert!(refusal.contains("names-key is damaged; remove it"), "{refusal}");
}

#[test]
fn another_key_is_refused_and_destroys_nothing() {
    for first in [Some(3), None] {
        let folder = tempfile::tempdir().unwrap();
        let client = open(folder.path(), 10, first).client(MODEL, PAGE_BYTES);
        (0..3).for_each(|index| assert!(client.write_blocking(ROOT, hash(index), content(index))));
        drop(client);
        for other in [Some(4), Some(3), None].into_iter().filter(|other| *other != first) {
            let key = other.map(|byte| StoreKey([byte; 32]));
            let options = StoreOptions { folder: folder.path().to_owned(), bytes_max: 1 << 20, key };
            let refusal = PageStore::open(options).unwrap_err().to_string();
            assert!(refusal.contains("under another key"), "{refusal}");
        }
        let client = open(folder.path(), 10, first).client(MODEL, PAGE_BYTES);
        assert_eq!(present(&client).len(), 3, "{first:?}");
        assert!(read(&client, ROOT, 1) == Some(content(1)));
    }
}

#[test]
fn all_clients_of_a_model_hear_of_a_page_that_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 1, None);
    let clients = [(); 2].map(|()| store.client(MODEL, PAGE_BYTES));
    assert!(clients[0].write_blocking(ROOT, hash(0), content(0)));
    assert!(clients[1].write_blocking(ROOT, hash(1), content(1)));
    for client in &clients {
        while !matches!(next_reply(client), StoreReply::Gone(gone) if gone == hash(0)) {}
    }
}

#[test]
fn a_full_store_says_what_it_gave_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 2, None);
    let client = store.client(MODEL, PAGE_BYTES);
    for index in 0..3 {
        assert!(client.write_blocking(ROOT, hash(index), content(index)));
    }
    let mut gone = Vec::new();
    let mut written = 0;
    while written < 3 {
        match next_reply(&client) {
            StoreReply::Gone(hash) => gone.push(hash),
            StoreReply::Written { stored, .. } => written += usize::from(stored),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(gone, [hash(0)]);
    assert!(read(&client, ROOT, 0).is_none() && read(&client, ROOT, 2) == Some(content(2)));
}

#[test]
fn keys_are_32_bytes_or_64_digits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let digits = "0a".repeat(32);
    let rows: &[(&[u8], Option<u8>)] = &[
        (&[0xc7; 32], Some(0xc7)),
        // Digits of 16 bytes, or some text.
        (&[b'7'; 32], None),
        (digits.as_bytes(), Some(10)),
        (&[digits.as_bytes(), b"\n"].concat(), Some(10)),
        (b"", None),
        (&[7; 31], None),
        (&[b'x'; 64], None),
    ];
    for (bytes, expected) in rows {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(StoreKey::read(&path).ok(), expected.map(|byte| StoreKey([byte; 32])));
    }
    assert_eq!(format!("{:?}", StoreKey([7; 32])), "StoreKey(..)");
    assert!(StoreKey::read(&folder.path().join("nothing")).is_err());
}

/// Names the folder and the round to the child.
const FOLDER: &str = "JANUS_TEST_STORE_FOLDER";
const ROUND: &str = "JANUS_TEST_STORE_ROUND";

/// Of the moments at which the child is killed.
const SEED: &str = "STORE_SEED";

/// One of four kinds of stores: with a key or none, and small pages of which old ones go, or large ones with
/// room for all.
fn open_kind(folder: &Path, kind: usize) -> (PageStore, StoreClient) {
    let folder = folder.join(kind.to_string());
    let (page_bytes, pages_max) = if kind < 2 { (PAGE_BYTES, 20) } else { (10 * PAGE_BYTES, 10_000) };
    let key = (kind % 2 == 1).then_some(StoreKey([7; 32]));
    let bytes_max = pages_max * PageStore::file_bytes(page_bytes);
    let store = PageStore::open(StoreOptions { folder, bytes_max, key }).unwrap();
    let client = store.client(MODEL, page_bytes);
    (store, client)
}

fn content_of(index: u32, page_bytes: usize) -> Vec<u8> {
    content(index).into_iter().cycle().take(page_bytes).collect()
}

/// Writes pages without end and says so after each.
#[test]
#[ignore = "the child of the test below"]
fn child_writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let round: u32 = std::env::var(ROUND).unwrap().parse().unwrap();
    let (_store, client) = open_kind(Path::new(&folder), round as usize % 4);
    for index in round * 10_000.. {
        assert!(client.write_blocking(ROOT, hash(index), content_of(index, client.page_bytes())));
        println!("\nwritten");
    }
}

/// A process that writes, killed a moment after it has said so.
fn kill_a_writer(folder: &Path, round: usize, moment: Duration) {
    let child = "pages::store::tests::child_writes_until_it_is_killed";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", child, "--ignored", "--nocapture"])
        .envs([(FOLDER, folder.as_os_str()), (ROUND, round.to_string().as_ref())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Open until it is dead: it must not end by itself for want of a reader.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "written"), "the child ended by itself");
    let began = Instant::now();
    while began.elapsed() < moment {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    let ended = child.wait().unwrap();
    #[cfg(unix)]
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "{ended}");
    drop(lines);
}

#[test]
fn a_killed_process_leaves_whole_pages_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse().expect("the seed is a number"),
        Err(_) => draw_seed(),
    };
    println!("again with {SEED}={seed} cargo test -p engine a_killed_process -- --nocapture");
    let random = CounterRandom::new(seed);
    let mut found = 0;
    for round in 0..40 {
        // In the middle of whatever it does then.
        let moment = Duration::from_micros(random.bits(round as u64) % 4000);
        println!("round {round}: killed after {moment:?}");
        kill_a_writer(folder.path(), round, moment);
        let (store, client) = open_kind(folder.path(), round % 4);
        for hash in present(&client) {
            let index = u32::from_le_bytes(hash.0[..4].try_into().unwrap());
            let whole = content_of(index, client.page_bytes());
            assert!(read(&client, ROOT, index) == Some(whole), "page {index} after round {round}");
            found += 1;
        }
        assert_eq!(store.stats().refused_pages, 0);
    }
    assert!(found > 40, "nothing was ever found");
}

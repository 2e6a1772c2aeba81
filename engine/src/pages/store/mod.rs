//! Pages on disk: what outlives memory pressure and the process.
//!
//! A thread of its own looks what is there, reads and writes; the engine's thread hands pages over and never
//! waits, except at its end. Files are checked in full before they are believed, and one that fails is removed.
//!
//! | file | what is in it |
//! |---|---|
//! | `record.rs` | one page's bytes, their checks, encryption |
//! | `folder.rs` | files, their bound, their removal |
//! | `secret.rs` | what names on disk are made with |

mod folder;
mod record;
mod secret;

use std::fmt;
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use self::folder::{FileId, StoreFolder, unhex};
pub use self::record::PageId;
use self::secret::FolderSecret;
use super::ChainHash;
use crate::EngineError;

/// Pages on their way to or from the disk; more are refused.
const JOBS_MAX: usize = 32;

/// Buffers kept for pages to come. Memory that was just used is read into several times as fast as memory
/// the system has to clear first.
const BUFFERS_MAX: usize = 4;

/// Where and how much.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub folder: PathBuf,
    pub bytes_max: u64,
    /// Encrypts the pages.
    pub key: Option<StoreKey>,
}

/// A key of AES-256.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreKey([u8; 32]);

impl StoreKey {
    /// Reads a key from a file of 32 bytes, or of 64 hexadecimal digits.
    ///
    /// # Errors
    /// `Io`, or `InvalidParameter` for anything else.
    pub fn read(path: &Path) -> Result<StoreKey, EngineError> {
        let bytes =
            std::fs::read(path).map_err(|source| EngineError::Io { path: path.to_owned(), source })?;
        let digits = unhex(std::str::from_utf8(&bytes).unwrap_or_default().trim());
        // 32 characters are a text, or half the digits: a key has more to guess.
        let raw = || <[u8; 32]>::try_from(bytes.as_slice()).ok().filter(|key| !key.is_ascii());
        digits.or_else(raw).map(StoreKey).ok_or_else(|| EngineError::InvalidParameter {
            parameter: "prefix.store_key_file",
            reason: format!("{} must hold 32 random bytes, or 64 hexadecimal digits", path.display()),
        })
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKey(..)")
    }
}

/// An open store, for all models of an engine. Cheap to clone; the last clone, and the last client, end
/// the thread and wait until everything is written.
#[derive(Clone)]
pub struct PageStore {
    inner: Arc<Inner>,
}

struct Inner {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    arrivals: Arc<Arrivals>,
    /// What names are made with.
    secret: [u8; 32],
    bytes_max: u64,
    stats: Arc<Mutex<StoreStats>>,
    buffers: Arc<Buffers>,
}

/// What pages were read into, to be used again. The last of them goes with the store.
#[derive(Default)]
struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        lock(&self.0).pop().unwrap_or_default()
    }

    fn put(&self, buffer: Vec<u8>) {
        let mut buffers = lock(&self.0);
        if buffers.len() < BUFFERS_MAX {
            buffers.push(buffer);
        }
    }
}

/// Clients that the thread does not know yet: their models' names, and the ways back. Few, and not among
/// the jobs, so that nobody waits for those before.
type Arrivals = Mutex<Vec<([u8; 32], Reply)>>;

/// For metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    pub pages: usize,
    pub bytes: u64,
    pub written_pages: u64,
    pub read_pages: u64,
    /// Asked for and not there any more.
    pub missed_pages: u64,
    /// Found damaged or foreign, and removed.
    pub refused_pages: u64,
    /// Reads and writes that the system failed.
    pub errors: u64,
}

/// One model's access to a store.
pub struct StoreClient {
    store: PageStore,
    model: [u8; 32],
    page_bytes: usize,
    replies: Receiver<StoreReply>,
    sender: Sender<StoreReply>,
    waker: Arc<OnceLock<Thread>>,
}

/// What became of a page.
#[derive(Debug)]
pub enum StoreReply {
    /// It is there from the last time.
    Present(ChainHash),
    /// It is there no more.
    Gone(ChainHash),
    Written {
        hash: ChainHash,
        stored: bool,
    },
    Read {
        hash: ChainHash,
        page: u32,
        /// `None` when it is gone.
        content: Option<PageContent>,
        took: Duration,
    },
}

/// A page that was read and checked: the bytes of its file, of which it derefs to the content.
#[derive(Debug)]
pub struct PageContent {
    record: Vec<u8>,
    content: Range<usize>,
}

impl Deref for PageContent {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.record[self.content.clone()]
    }
}

enum Job {
    /// Somebody has arrived.
    Look,
    /// Somebody wants to know when all before this is done.
    Answer(Sender<()>),
    Write {
        reply: Reply,
        id: PageId,
        content: Vec<u8>,
    },
    Read {
        reply: Reply,
        id: PageId,
        page: u32,
        content_bytes: usize,
    },
}

/// The way back to a client.
#[derive(Clone)]
struct Reply {
    sender: Sender<StoreReply>,
    waker: Arc<OnceLock<Thread>>,
}

impl Reply {
    fn send(&self, reply: StoreReply) {
        // Nobody there: its model was unloaded.
        if self.sender.send(reply).is_ok()
            && let Some(thread) = self.waker.get()
        {
            thread.unpark();
        }
    }
}

impl PageStore {
    /// Opens a folder and starts the thread.
    ///
    /// # Errors
    /// `Io` and `InvalidParameter` when the folder cannot be used; `Failed` when the system gives no
    /// thread.
    pub fn open(options: StoreOptions) -> Result<PageStore, EngineError> {
        PageStore::open_after(options, || ())
    }

    /// The same, where the thread begins with something else.
    fn open_after(
        options: StoreOptions,
        first: impl FnOnce() + Send + 'static,
    ) -> Result<PageStore, EngineError> {
        let folder = StoreFolder::open(&options.folder, options.bytes_max)?;
        let FolderSecret { secret, is_new } = FolderSecret::of(&options.folder, options.key.as_ref())?;
        let (jobs, receiver) = sync_channel(JOBS_MAX);
        let stats = Arc::new(Mutex::new(StoreStats::default()));
        let buffers = Arc::new(Buffers::default());
        let arrivals = Arc::new(Arrivals::default());
        let mut worker = Worker {
            folder,
            key: options.key,
            stats: Arc::clone(&stats),
            buffers: Arc::clone(&buffers),
            arrivals: Arc::clone(&arrivals),
            clients: Vec::new(),
        };
        let run = move || {
            first();
            worker.folder.scan(is_new);
            worker.publish(|_| ());
            receiver.into_iter().for_each(|job| worker.work(job));
        };
        let thread = std::thread::Builder::new()
            .name("page store".to_owned())
            .spawn(run)
            .map_err(|error| EngineError::Failed(format!("cannot start a thread: {error}")))?;
        let thread = Some(thread);
        let bytes_max = options.bytes_max;
        let inner = Inner { jobs: Some(jobs), thread, arrivals, secret, bytes_max, stats, buffers };
        Ok(PageStore { inner: Arc::new(inner) })
    }

    /// What names of pages and models are made with, so that nobody else can tell what they stand for.
    pub fn secret(&self) -> &[u8; 32] {
        &self.inner.secret
    }

    /// What a page takes in it.
    pub fn file_bytes(page_bytes: usize) -> u64 {
        record::record_bytes(page_bytes) as u64
    }

    pub fn stats(&self) -> StoreStats {
        *lock(&self.inner.stats)
    }

    /// Access for a model whose pages have so many bytes. What the store has of it comes as replies, once the
    /// thread has seen it; this does not wait.
    pub fn client(&self, model: [u8; 32], page_bytes: usize) -> StoreClient {
        let (sender, replies) = channel();
        let client = StoreClient {
            store: self.clone(),
            model,
            page_bytes,
            replies,
            sender,
            waker: Arc::new(OnceLock::new()),
        };
        lock(&self.inner.arrivals).push((model, client.reply()));
        // It looks before every job; where there is no room for one more, others will make it.
        let _ = self.jobs().try_send(Job::Look);
        client
    }

    /// Waits until every client of now has heard what is there, but no longer than `most`.
    pub fn wait_for_clients(&self, most: Duration) {
        let (sender, receiver) = channel();
        if self.jobs().try_send(Job::Answer(sender)).is_ok() {
            // Whether in time or not: pages that are heard of later are of use later.
            let _ = receiver.recv_timeout(most);
        }
    }

    fn jobs(&self) -> &SyncSender<Job> {
        self.inner.jobs.as_ref().expect("taken when the last handle is dropped")
    }
}

impl fmt::Debug for PageStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageStore").field("stats", &self.stats()).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl StoreClient {
    /// Replies wake the calling thread from now on.
    pub fn wake_this_thread(&self) {
        self.waker.get_or_init(std::thread::current);
    }

    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// So many pages the store holds, if they are all this model's.
    pub fn pages_max(&self) -> usize {
        let pages = self.store.inner.bytes_max / PageStore::file_bytes(self.page_bytes);
        usize::try_from(pages).unwrap_or(usize::MAX)
    }

    /// What happens next, if it does so soon.
    pub fn reply_within(&self, wait: Duration) -> Option<StoreReply> {
        self.replies.recv_timeout(wait).ok()
    }

    /// What happened since the last look.
    pub fn reply_now(&self) -> Option<StoreReply> {
        self.replies.try_recv().ok()
    }

    /// Hands a page over. Returns whether it was taken: not when too many are on their way.
    pub fn write(&self, root: ChainHash, hash: ChainHash, content: Vec<u8>) -> bool {
        let id = PageId { model: self.model, root, hash };
        self.try_send(Job::Write { reply: self.reply(), id, content })
    }

    /// The same at the end of a process: waits for room.
    pub fn write_blocking(&self, root: ChainHash, hash: ChainHash, content: Vec<u8>) -> bool {
        let id = PageId { model: self.model, root, hash };
        self.store.jobs().send(Job::Write { reply: self.reply(), id, content }).is_ok()
    }

    /// Asks for a page, which comes as a reply together with `page`. Returns whether that will be.
    pub fn read(&self, root: ChainHash, hash: ChainHash, page: u32) -> bool {
        let id = PageId { model: self.model, root, hash };
        self.try_send(Job::Read { reply: self.reply(), id, page, content_bytes: self.page_bytes })
    }

    /// Gives a page's buffer back once its content was copied.
    pub fn recycle(&self, content: PageContent) {
        self.store.inner.buffers.put(content.record);
    }

    fn try_send(&self, job: Job) -> bool {
        match self.store.jobs().try_send(job) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    fn reply(&self) -> Reply {
        Reply { sender: self.sender.clone(), waker: Arc::clone(&self.waker) }
    }
}

/// Every change is a single one, so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's own.
struct Worker {
    folder: StoreFolder,
    key: Option<StoreKey>,
    stats: Arc<Mutex<StoreStats>>,
    buffers: Arc<Buffers>,
    arrivals: Arc<Arrivals>,
    /// Who hears of pages that go.
    clients: Vec<([u8; 32], Reply)>,
}

impl Worker {
    fn work(&mut self, job: Job) {
        self.welcome();
        match job {
            Job::Look => {}
            Job::Answer(sender) => {
                // Nobody there: it waited long enough.
                let _ = sender.send(());
            }
            Job::Write { reply, id, content } => self.write(&reply, &id, content),
            Job::Read { reply, id, page, content_bytes } => {
                let started = Instant::now();
                let content = self.read(&id, content_bytes);
                if content.is_none() {
                    reply.send(StoreReply::Gone(id.hash));
                }
                reply.send(StoreReply::Read { hash: id.hash, page, content, took: started.elapsed() });
            }
        }
    }

    /// Tells who has come what there is of its model.
    fn welcome(&mut self) {
        let arrived = std::mem::take(&mut *lock(&self.arrivals));
        for (model, reply) in arrived {
            self.folder.pages_of(&model).into_iter().for_each(|hash| reply.send(StoreReply::Present(hash)));
            // Whoever has gone has let go of its end.
            self.clients.retain(|(_, reply)| Arc::strong_count(&reply.waker) > 1);
            self.clients.push((model, reply));
        }
    }

    fn write(&mut self, reply: &Reply, id: &PageId, content: Vec<u8>) {
        let file = FileId { model: id.model, hash: id.hash };
        if self.folder.contains(&file) {
            return reply.send(StoreReply::Written { hash: id.hash, stored: true });
        }
        let (head, content) = record::encode(id, content, self.key.as_ref());
        match self.folder.write(file, [&head, &content]) {
            Ok(removed) => {
                for file in removed {
                    let clients = self.clients.iter().filter(|(model, _)| *model == file.model);
                    clients.for_each(|(_, reply)| reply.send(StoreReply::Gone(file.hash)));
                }
                self.publish(|stats| stats.written_pages += 1);
                reply.send(StoreReply::Written { hash: id.hash, stored: true });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot write a page to the prefix store");
                self.publish(|stats| stats.errors += 1);
                reply.send(StoreReply::Written { hash: id.hash, stored: false });
            }
        }
    }

    fn read(&mut self, id: &PageId, content_bytes: usize) -> Option<PageContent> {
        let file = FileId { model: id.model, hash: id.hash };
        let mut record = self.buffers.take();
        if let Err(error) = self.folder.read(&file, &mut record) {
            self.publish(|stats| match error.kind() {
                io::ErrorKind::NotFound => stats.missed_pages += 1,
                _ => stats.errors += 1,
            });
            return None;
        }
        match record::decode(&mut record, id, content_bytes, self.key.as_ref()) {
            Ok(content) => {
                self.publish(|stats| stats.read_pages += 1);
                Some(PageContent { record, content })
            }
            Err(error) => {
                tracing::warn!(%error, "removed a page of the prefix store");
                self.folder.remove(&file);
                self.publish(|stats| stats.refused_pages += 1);
                None
            }
        }
    }

    fn publish(&mut self, change: impl FnOnce(&mut StoreStats)) {
        let mut stats = lock(&self.stats);
        change(&mut stats);
        stats.pages = self.folder.pages();
        stats.bytes = self.folder.bytes();
    }
}

#[cfg(test)]
mod tests;

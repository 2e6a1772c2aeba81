//! Models that come and go while the server runs: loaded for an operator or for a request that names
//! them, one at a time, on a thread that lets all others go first.
//!
//! Only models on the [`Shelf`] can be loaded: those of the configuration and the installed ones of the
//! catalogue. A name from the wire is looked up there and is never a path.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::model::LoadedModel;
use engine::{Engine, EngineError, LoadPlan};
use tokio::sync::watch;

use crate::catalogue::CatalogueError;

/// Loads that run or wait for their turn.
const LOADS_MAX: usize = 16;
/// Longest name a model can be served under.
const NAME_BYTES_MAX: usize = 128;
/// A model that could not be loaded is not tried again for requests so soon: they get the same answer.
const FAILURE_KEPT: Duration = Duration::from_secs(10);

/// Where models lie that can be loaded by name.
pub trait Shelf: Send + Sync {
    /// All of them.
    fn list(&self) -> Vec<ShelfModel>;
    /// # Errors
    /// `Unknown`, or `Catalogue` for one that is known and not installed.
    fn find(&self, name: &str) -> Result<ShelfModel, LoadError>;
    /// Checks and packs one, to be served as `served_name`; `progress` is told 0.0..=1.0.
    ///
    /// # Errors
    /// What is wrong with its files.
    fn open(
        &self,
        model: &ShelfModel,
        served_name: &str,
        progress: &(dyn Fn(f32) + Sync),
    ) -> Result<LoadedModel, LoadError>;
}

/// A model that could be loaded.
#[derive(Clone, Debug)]
pub struct ShelfModel {
    pub name: String,
    /// Size of its files.
    pub bytes: u64,
    /// Seconds since 1970 of its files.
    pub created: u64,
    /// Where it is known without opening it.
    pub context_tokens: Option<u64>,
}

/// Why a model cannot be loaded or is not there. Texts are for the operator.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(
        "no model is called `{0}`: name one of the configuration (models.serve) or an installed one of the catalogue"
    )]
    Unknown(String),
    #[error("`{0}` cannot be the name of a model: it takes 1 to 128 letters, digits and any of - _ . : / @")]
    Name(String),
    #[error("another model is being loaded as `{0}`")]
    Busy(String),
    #[error("too many models are being loaded; try again when one is done")]
    TooMany,
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("loading ended without a result; the server's log tells more")]
    Crashed,
}

/// How a load ended; `None` while it runs.
type Outcome = Option<Result<(), Arc<LoadError>>>;

/// What to load.
#[derive(Clone, Debug)]
pub struct LoadOrder {
    /// Its name on the shelf.
    pub model: String,
    pub served_name: String,
    pub pinned: bool,
}

/// Loads models into one engine.
pub struct Loader {
    engine: Engine,
    shelf: Arc<dyn Shelf>,
    /// Held by the load that runs: two at a time would each take longer, and judge the same free memory.
    turn: Mutex<()>,
    /// By served name.
    loads: Mutex<BTreeMap<String, Load>>,
}

/// A load that runs, waits or failed a short while ago.
struct Load {
    model: String,
    /// In millionths.
    progress: Arc<AtomicU32>,
    outcome: watch::Receiver<Outcome>,
    begun: Instant,
}

impl Load {
    fn is_running(&self) -> bool {
        self.outcome.borrow().is_none()
    }
}

impl Loader {
    pub fn new(engine: Engine, shelf: Arc<dyn Shelf>) -> Arc<Loader> {
        Arc::new(Loader { engine, shelf, turn: Mutex::default(), loads: Mutex::default() })
    }

    pub fn shelf(&self) -> &dyn Shelf {
        &*self.shelf
    }

    /// Name and progress (0.0..=1.0) of what is being loaded.
    pub fn progress(&self) -> Vec<(String, f32)> {
        let loads = self.lock();
        let running = loads.iter().filter(|(_, load)| load.is_running());
        running.map(|(name, load)| (name.clone(), part(load.progress.load(Ordering::Relaxed)))).collect()
    }

    /// Loads a model and returns when it is served. It is loaded to the end even if nobody waits any more.
    ///
    /// # Errors
    /// Why it is not: see [`LoadError`] and [`Engine::load`].
    pub async fn load(self: &Arc<Self>, order: LoadOrder) -> Result<(), Arc<LoadError>> {
        check_name(&order.served_name)?;
        ended(self.begin(order, false)?).await
    }

    /// The same for a request: whoever asks for a model that is being loaded waits for that load, or
    /// hears why it failed a moment ago.
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub async fn load_on_demand(self: &Arc<Self>, name: &str) -> Result<(), Arc<LoadError>> {
        let order = LoadOrder { model: name.to_owned(), served_name: name.to_owned(), pinned: false };
        ended(self.begin(order, true)?).await
    }

    fn begin(
        self: &Arc<Self>,
        order: LoadOrder,
        on_demand: bool,
    ) -> Result<watch::Receiver<Outcome>, LoadError> {
        // It looks at files: not while others wait for the lock.
        let model = self.shelf.find(&order.model)?;
        let mut loads = self.lock();
        // The load that a request missed may have ended since: then it is served, and not loaded again.
        if on_demand && self.engine.model(&order.served_name).is_ok() {
            return Ok(watch::channel(Some(Ok(()))).1);
        }
        loads.retain(|_, load| load.is_running() || load.begun.elapsed() < FAILURE_KEPT);
        if let Some(load) = loads.get(&order.served_name) {
            match load.is_running() {
                true if load.model == order.model => return Ok(load.outcome.clone()),
                true => return Err(LoadError::Busy(order.served_name)),
                false if on_demand => return Ok(load.outcome.clone()),
                false => {}
            }
        }
        if loads.len() >= LOADS_MAX {
            // Remembered failures take no place from a load.
            loads.retain(|_, load| load.is_running());
        }
        if loads.len() >= LOADS_MAX {
            return Err(LoadError::TooMany);
        }
        let (send, outcome) = watch::channel(None);
        let (model_name, progress) = (order.model.clone(), Arc::new(AtomicU32::new(0)));
        let load = Load {
            model: model_name,
            progress: Arc::clone(&progress),
            outcome: outcome.clone(),
            begun: Instant::now(),
        };
        let loader = Arc::clone(self);
        let served_name = order.served_name.clone();
        let run = move || {
            let loaded = catch_unwind(AssertUnwindSafe(|| loader.run(&model, &order, &progress)));
            loader.end(&order.served_name, loaded.unwrap_or(Err(LoadError::Crashed)), &send);
        };
        let spawned = std::thread::Builder::new().name("loader".to_owned()).spawn(run);
        spawned.map_err(|error| EngineError::Failed(format!("cannot start a thread: {error}")))?;
        loads.insert(served_name, load);
        Ok(outcome)
    }

    fn run(&self, model: &ShelfModel, order: &LoadOrder, progress: &AtomicU32) -> Result<(), LoadError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (served_name, begun) = (order.served_name.as_str(), Instant::now());
        let plan = LoadPlan {
            name: served_name,
            weight_bytes: usize::try_from(model.bytes).unwrap_or(usize::MAX),
            pinned: order.pinned,
        };
        let advance = |done: f32| progress.store((done * MILLION) as u32, Ordering::Relaxed);
        self.engine.load(&plan, || self.shelf.open(model, served_name, &advance))?;
        let took_ms = begun.elapsed().as_millis() as u64;
        tracing::info!(model = model.name, served_name, took_ms, "loaded");
        Ok(())
    }

    /// Tells who waits. A failure is remembered for a while.
    fn end(&self, served_name: &str, loaded: Result<(), LoadError>, send: &watch::Sender<Outcome>) {
        let mut loads = self.lock();
        match &loaded {
            Ok(()) => drop(loads.remove(served_name)),
            Err(error) => {
                tracing::error!(served_name, %error, "a model could not be loaded");
                if let Some(load) = loads.get_mut(served_name) {
                    load.begun = Instant::now();
                }
            }
        }
        send.send_replace(Some(loaded.map_err(Arc::new)));
    }

    /// A panic elsewhere leaves the map as it was or with one entry more or less.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Load>> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const MILLION: f32 = 1e6;

fn part(millionths: u32) -> f32 {
    millionths as f32 / MILLION
}

async fn ended(mut outcome: watch::Receiver<Outcome>) -> Result<(), Arc<LoadError>> {
    match outcome.wait_for(Option::is_some).await {
        Ok(ended) => ended.clone().unwrap_or(Ok(())),
        Err(_) => Err(Arc::new(LoadError::Crashed)),
    }
}

/// A name stands in URLs, logs and metrics.
fn check_name(name: &str) -> Result<(), LoadError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/@".contains(&byte);
    match !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(allowed) {
        true => Ok(()),
        false => Err(LoadError::Name(name.chars().take(NAME_BYTES_MAX).collect())),
    }
}

/// A shelf without models, for servers whose models never change.
pub struct EmptyShelf;

impl Shelf for EmptyShelf {
    fn list(&self) -> Vec<ShelfModel> {
        Vec::new()
    }

    fn find(&self, name: &str) -> Result<ShelfModel, LoadError> {
        Err(LoadError::Unknown(name.to_owned()))
    }

    fn open(&self, model: &ShelfModel, _: &str, _: &(dyn Fn(f32) + Sync)) -> Result<LoadedModel, LoadError> {
        Err(LoadError::Unknown(model.name.clone()))
    }
}

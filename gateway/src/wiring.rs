//! Puts the parts together, in two steps: the [`Front`] that lets requests in, there as soon as the server
//! listens, and the [`App`] behind it that answers them, once its models are loaded.

use std::num::NonZero;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::extract::FromRequestParts;
use engine::Engine;
use http::request::Parts;
use tokio::sync::Semaphore;

use crate::admission::Admission;
use crate::config::{Config, ConfigError, Limits, Models, Server};
use crate::error::{ApiError, ApiResult};
use crate::host::Hosts;
use crate::keys::ApiKeys;
use crate::loader::{Loader, Shelf};
use crate::routes;
use crate::routes::logprob_room::LogprobRoom;
use crate::telemetry::metrics::Metrics;

/// What every layer needs, with or without models; shared by reference.
pub struct Front {
    pub server: Server,
    limits: Limits,
    models: Models,
    pub keys: ApiKeys,
    /// Those of them that may also load and unload models.
    pub admin_keys: ApiKeys,
    pub hosts: Hosts,
    pub admission: Arc<Admission>,
    pub metrics: Arc<Metrics>,
    /// The model that is being loaded, as clients may be told of it.
    loading: Mutex<String>,
    app: OnceLock<SharedApp>,
}

pub type SharedFront = Arc<Front>;

/// What routes that need models need; shared by reference.
pub struct App {
    pub engine: Engine,
    pub server: Server,
    pub limits: Limits,
    pub models: Models,
    pub loader: Arc<Loader>,
    pub metrics: Arc<Metrics>,
    /// Places for long work on bodies (parsing, tokenising): one a core. A place is held until the work is
    /// done, even if the client that asked for it has left.
    pub workers: Arc<Semaphore>,
    pub logprob_room: LogprobRoom,
}

pub type SharedApp = Arc<App>;

impl Front {
    /// # Errors
    /// [`ConfigError`] if the API keys cannot be read.
    pub fn new(config: &Config) -> Result<SharedFront, ConfigError> {
        let keys = ApiKeys::load(&config.auth)?;
        Ok(Arc::new(Front {
            server: config.server.clone(),
            limits: config.limits.clone(),
            models: config.models.clone(),
            hosts: Hosts::new(&config.server.allowed_hosts, keys.is_required()),
            keys,
            admin_keys: ApiKeys::load_admin(&config.auth)?,
            admission: Admission::new(config.server.requests_in_flight_max),
            metrics: Arc::new(Metrics::new(routes::ROUTES.iter().map(|route| route.path))),
            loading: Mutex::default(),
            app: OnceLock::new(),
        }))
    }

    /// Names the model that requests wait for.
    pub fn set_loading(&self, model: &str) {
        model.clone_into(&mut self.loading.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Lets requests in to the models of `engine`; those of `shelf` can be loaded later. Only the first call
    /// counts.
    pub fn open(&self, engine: Engine, shelf: Arc<dyn Shelf>) {
        self.app.get_or_init(|| {
            Arc::new(App {
                loader: Loader::new(engine.clone(), shelf),
                engine,
                server: self.server.clone(),
                limits: self.limits.clone(),
                models: self.models.clone(),
                metrics: Arc::clone(&self.metrics),
                workers: Arc::new(Semaphore::new(cores())),
                logprob_room: LogprobRoom::new(self.limits.logprobs_mib),
            })
        });
    }

    /// # Errors
    /// 503 with the model that is being loaded, until [`Front::open`].
    pub fn app(&self) -> ApiResult<&SharedApp> {
        let loading = || self.loading.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.app.get().ok_or_else(|| ApiError::starting(&loading()))
    }
}

/// The application, for the routes that need its models: refused until they are loaded.
pub struct Loaded(pub SharedApp);

impl FromRequestParts<SharedFront> for Loaded {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, front: &SharedFront) -> ApiResult<Loaded> {
        front.app().map(|app| Loaded(Arc::clone(app)))
    }
}

/// Cores this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

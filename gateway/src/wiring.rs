//! Puts the parts together: configuration and engine become the application that routes and layers
//! share.

use std::num::NonZero;
use std::sync::Arc;

use engine::Engine;
use tokio::sync::Semaphore;

use crate::admission::Admission;
use crate::config::{Config, ConfigError, Limits, Models, Server};
use crate::host::Hosts;
use crate::keys::ApiKeys;
use crate::loader::{Loader, Shelf};
use crate::routes;
use crate::telemetry::metrics::Metrics;

/// What every request may need; shared by reference.
pub struct App {
    pub engine: Engine,
    pub server: Server,
    pub limits: Limits,
    pub models: Models,
    pub loader: Arc<Loader>,
    pub keys: ApiKeys,
    /// Those of them that may also load and unload models.
    pub admin_keys: ApiKeys,
    pub hosts: Hosts,
    pub admission: Arc<Admission>,
    pub metrics: Metrics,
    /// Places for long work on bodies (parsing, tokenising): one a core. A place is held until the work is
    /// done, even if the client that asked for it has left.
    pub workers: Arc<Semaphore>,
}

pub type SharedApp = Arc<App>;

impl App {
    /// # Errors
    /// [`ConfigError`] if the API keys cannot be read.
    pub fn new(config: &Config, engine: Engine, shelf: Arc<dyn Shelf>) -> Result<SharedApp, ConfigError> {
        let keys = ApiKeys::load(&config.auth)?;
        Ok(Arc::new(App {
            loader: Loader::new(engine.clone(), shelf),
            engine,
            models: config.models.clone(),
            server: config.server.clone(),
            limits: config.limits.clone(),
            hosts: Hosts::new(&config.server.allowed_hosts, keys.is_required()),
            keys,
            admin_keys: ApiKeys::load_admin(&config.auth)?,
            admission: Admission::new(config.server.requests_in_flight_max),
            workers: Arc::new(Semaphore::new(cores())),
            metrics: Metrics::new(routes::ROUTES.iter().map(|route| route.path)),
        }))
    }
}

/// Cores this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

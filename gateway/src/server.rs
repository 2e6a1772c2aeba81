//! The listener: accepts connections up to a limit, and ends them all in order when told to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use engine::Engine;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::{Config, ConfigError, listen_address};
use crate::connection::{self, ConnectionLimits};
use crate::loader::Shelf;
use crate::stack;
use crate::wiring::{App, SharedApp};

/// After the drain's deadline: for the answers to reach their clients, and for connections to close.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
const LAST_CLOSINGS: Duration = Duration::from_secs(3);
/// Before accepting again when the system has no descriptor left.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot listen on {address}: {source}; is another server running there?")]
    Listen { address: SocketAddr, source: io::Error },
}

/// A server that listens and does not serve yet.
pub struct Server {
    listener: TcpListener,
    local_address: SocketAddr,
    app: SharedApp,
    router: Router,
    limits: ConnectionLimits,
    places: Arc<Semaphore>,
    connections: JoinSet<()>,
    close: watch::Sender<bool>,
    drain_deadline: Duration,
}

/// Listens and serves until `shutdown` resolves and what is in work then is done.
///
/// # Errors
/// As [`Server::bind`].
pub async fn serve(
    config: &Config,
    engine: Engine,
    shelf: Arc<dyn Shelf>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    Server::bind(config, engine, shelf).await?.run(shutdown).await;
    Ok(())
}

/// Resolves when the process is asked to end: SIGTERM, or ctrl-c.
pub async fn shutdown_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupted = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminated) => tokio::select! {
            _ = interrupted => {}
            _ = terminated.recv() => {}
        },
        // Without SIGTERM there is still ctrl-c.
        Err(_) => drop(interrupted.await),
    }
}

impl Server {
    /// Checks the address and keys, and listens. Models of `shelf` can be loaded later.
    ///
    /// # Errors
    /// [`ServeError`]: the address is public and there are no keys, the keys cannot be read, or the
    /// address is taken.
    pub async fn bind(config: &Config, engine: Engine, shelf: Arc<dyn Shelf>) -> Result<Server, ServeError> {
        let app = App::new(config, engine, shelf)?;
        let address = listen_address(&config.server.listen, app.keys.is_required())?;
        let failed = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let local_address = listener.local_addr().map_err(failed)?;
        Ok(Server {
            listener,
            local_address,
            router: stack::router(&app),
            app,
            limits: ConnectionLimits::new(&config.server),
            places: Arc::new(Semaphore::new(config.server.connections_max.min(Semaphore::MAX_PERMITS))),
            connections: JoinSet::new(),
            close: watch::Sender::new(false),
            drain_deadline: Duration::from_millis(config.server.drain_deadline_ms),
        })
    }

    /// Where it listens, with the port the system chose.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Serves until `shutdown` resolves; then requests in work may finish while new ones are answered
    /// 503, until the drain's deadline.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        tracing::info!(address = %self.local_address, "listening");
        self.accept_until(shutdown).await;
        let app = Arc::clone(&self.app);
        app.admission.drain();
        tracing::info!(in_flight = app.admission.in_flight(), "draining");
        app.engine.drain(self.drain_deadline);
        let drained = tokio::time::timeout(self.drain_deadline + LAST_ANSWERS, app.admission.idle());
        self.accept_until(async { drop(drained.await) }).await;
        self.close().await;
    }

    async fn accept_until(&mut self, end: impl Future<Output = ()>) {
        let mut end = std::pin::pin!(end);
        loop {
            tokio::select! {
                biased;
                () = &mut end => return,
                Some(_) = self.connections.join_next() => {}
                (stream, place) = accept(&self.listener, &self.places) => self.spawn(stream, place),
            }
        }
    }

    fn spawn(&mut self, stream: TcpStream, place: OwnedSemaphorePermit) {
        let counted = Counted::new(&self.app);
        let connection = connection::serve(stream, self.router.clone(), self.limits, self.close.subscribe());
        self.connections.spawn(async move {
            connection.await;
            drop((counted, place));
        });
    }

    /// Ends every connection: in order first, then by force.
    async fn close(mut self) {
        drop(self.listener);
        self.close.send_replace(true);
        let ended = async { while self.connections.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_CLOSINGS, ended).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "connections were cut");
        }
        self.connections.shutdown().await;
        tracing::info!("stopped");
    }
}

/// The next connection, once there is a place for it.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let place = Arc::clone(places).acquire_owned().await.expect("nobody closes this semaphore");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// One open connection in the metrics.
struct Counted(SharedApp);

impl Counted {
    fn new(app: &SharedApp) -> Counted {
        app.metrics.connections.add();
        Counted(Arc::clone(app))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.connections.subtract();
    }
}

//! The listener: accepts connections up to a limit, and ends them all in order when told to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::{ConfigError, listen_address};
use crate::connection::{self, ConnectionLimits};
use crate::stack;
use crate::wiring::SharedFront;

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

/// A server that listens and does not answer yet.
pub struct Server {
    listener: TcpListener,
    local_address: SocketAddr,
    front: SharedFront,
    router: Router,
    limits: ConnectionLimits,
    places: Arc<Semaphore>,
    connections: JoinSet<()>,
    close: watch::Sender<bool>,
    drain_deadline: Duration,
}

impl Server {
    /// Checks the address and listens. Requests for models are answered 503 until [`Front::open`].
    ///
    /// # Errors
    /// [`ServeError`]: the address is public and there are no keys, or it is taken.
    ///
    /// [`Front::open`]: crate::wiring::Front::open
    pub async fn bind(front: SharedFront) -> Result<Server, ServeError> {
        let address = listen_address(&front.server.listen, front.keys.is_required())?;
        let failed = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let local_address = listener.local_addr().map_err(failed)?;
        let config = &front.server;
        Ok(Server {
            listener,
            local_address,
            limits: ConnectionLimits::new(config),
            places: Arc::new(Semaphore::new(config.connections_max.min(Semaphore::MAX_PERMITS))),
            connections: JoinSet::new(),
            close: watch::Sender::new(false),
            drain_deadline: Duration::from_millis(config.drain_deadline_ms),
            router: stack::router(&front),
            front,
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
        let admission = Arc::clone(&self.front.admission);
        admission.drain();
        tracing::info!(in_flight = admission.in_flight(), "draining");
        if let Ok(app) = self.front.app() {
            app.engine.drain(self.drain_deadline);
        }
        let drained = tokio::time::timeout(self.drain_deadline + LAST_ANSWERS, admission.idle());
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
        let counted = Counted::new(&self.front);
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
struct Counted(SharedFront);

impl Counted {
    fn new(front: &SharedFront) -> Counted {
        front.metrics.connections.add();
        Counted(Arc::clone(front))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.connections.subtract();
    }
}

//! Long replies to slow readers, over connections whose application is no more than a large body.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use gateway::config::Server;
use gateway::connection::{self, ConnectionLimits, UntilSent};
use tokio::sync::watch;

use crate::support::Client;

/// More than the system keeps in its buffers.
const BYTES: usize = 16 << 20;

/// Serves one connection, whose replies hold `held` until they are sent.
fn serve_one(server: &Server, held: &Arc<()>) -> (SocketAddr, JoinHandle<()>) {
    let (limits, held) = (ConnectionLimits::new(server), Arc::clone(held));
    let large = || async move {
        let mut response: Response = vec![b'x'; BYTES].into_response();
        UntilSent::hold(response.extensions_mut(), held);
        response
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let (_keep, close) = watch::channel(false);
            connection::serve(stream, Router::new().route("/", get(large)), limits, close).await;
        });
    });
    (address, serving)
}

/// Reads steadily, at about 4 MB a second, until all is there or the connection ends. Returns how much came,
/// and whether `held` was held to the end of it.
fn read_slowly(client: &mut Client, held: &Arc<()>) -> (usize, bool) {
    let (mut bytes, mut was_held) = (0, true);
    let mut buffer = vec![0; 64 << 10];
    while bytes < BYTES {
        use std::io::Read;
        // What is left by then may all be in the system's hands.
        was_held &= bytes > BYTES / 2 || Arc::strong_count(held) > 1;
        match client.stream().read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => bytes += read,
        }
        std::thread::sleep(Duration::from_millis(15));
    }
    (bytes, was_held)
}

#[test]
fn replies_reach_steady_slow_readers_until_the_requests_deadline() {
    let idle = Server { idle_deadline_ms: 1000, ..Server::default() };
    let overdue = Server { request_deadline_ms: 100, ..Server::default() };
    for (what, server, whole) in [("idle", idle, true), ("overdue", overdue, false)] {
        let held = Arc::new(());
        let (address, serving) = serve_one(&server, &held);
        let mut client = Client::new(address);
        client.begin("GET", "/", &[], "");
        let (bytes, was_held) = read_slowly(&mut client, &held);
        assert_eq!(bytes >= BYTES, whole, "{what}: {bytes} bytes came");
        assert!(was_held || !whole, "{what}: let go before it was sent");
        drop(client);
        serving.join().unwrap();
        assert_eq!(Arc::strong_count(&held), 1, "{what}: held for ever");
    }
}

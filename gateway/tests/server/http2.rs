//! HTTP/2 without TLS, by prior knowledge.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::support::{ANSWER, PATIENCE, Running, eventually, start};

/// Runs `test` over one connection.
fn over_http2<F: Future<Output = ()>>(server: &Running, test: impl FnOnce(SendRequest<Full<Bytes>>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        tokio::time::timeout(PATIENCE, test(sender)).await.expect("hangs");
        connection.abort();
    });
}

async fn post(sender: &mut SendRequest<Full<Bytes>>, path: &str, body: Value) -> Response<Incoming> {
    sender.ready().await.unwrap();
    let request = Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    sender.send_request(request).await.unwrap()
}

fn endless(stream: bool) -> Value {
    json!({ "model": "endless", "temperature": 0, "prompt": "x", "max_tokens": 4000, "stream": stream })
}

#[test]
fn one_connection_carries_many_chats_at_once() {
    let server = start(|_| {});
    over_http2(&server, |sender| async move {
        let chats = (0..16).map(|_| {
            let mut sender = sender.clone();
            tokio::spawn(async move {
                let body = json!({ "model": "chat", "temperature": 0, "messages": [{ "role": "user", "content": "x" }] });
                let response = post(&mut sender, "/v1/chat/completions", body).await;
                assert_eq!(response.status(), 200);
                let body = response.into_body().collect().await.unwrap().to_bytes();
                let reply: Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(reply["choices"][0]["message"]["content"], ANSWER);
            })
        });
        for chat in chats.collect::<Vec<_>>() {
            chat.await.unwrap();
        }
    });
    server.wait_until_idle();
}

#[test]
fn a_stream_that_is_reset_frees_its_sequence() {
    let server = start(|_| {});
    for stream in [true, false] {
        over_http2(&server, |mut sender| {
            let server = &server;
            async move {
                if stream {
                    let mut body = post(&mut sender, "/v1/completions", endless(true)).await.into_body();
                    assert!(body.frame().await.unwrap().unwrap().is_data());
                    drop(body);
                } else {
                    let mut sender = sender.clone();
                    let waiting =
                        tokio::spawn(
                            async move { post(&mut sender, "/v1/completions", endless(false)).await },
                        );
                    tokio::task::spawn_blocking({
                        let address = server.address;
                        move || wait_for_a_sequence(address)
                    })
                    .await
                    .unwrap();
                    waiting.abort();
                }
                // The connection lives on; only the stream is gone.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let response =
                    post(&mut sender, "/v1/embeddings", json!({ "model": "vectors", "input": "x" })).await;
                assert_eq!(response.status(), 200);
                let address = server.address;
                tokio::task::spawn_blocking(move || wait_for_no_sequence(address)).await.unwrap();
            }
        });
        server.wait_until_idle();
    }
}

fn metrics(address: std::net::SocketAddr) -> String {
    crate::support::Client::new(address).request("GET", "/metrics", &[], "").text()
}

fn wait_for_a_sequence(address: std::net::SocketAddr) {
    eventually("the sequence runs", || metrics(address).contains("\njanus_engine_running_sequences 1\n"));
}

fn wait_for_no_sequence(address: std::net::SocketAddr) {
    eventually("the sequence is gone", || metrics(address).contains("\njanus_engine_running_sequences 0\n"));
}

#[test]
fn a_drain_lets_streams_finish() {
    let mut server = start(|_| {});
    let stop = std::cell::RefCell::new(&mut server);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let address = stop.borrow().address;
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let body =
            json!({ "model": "endless", "temperature": 0, "prompt": "x", "max_tokens": 200, "stream": true });
        let response = post(&mut sender, "/v1/completions", body).await;
        stop.borrow_mut().begin_stop();
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert!(text.ends_with(b"data: [DONE]\n\n"));
        // The server says goodbye, and the connection ends by itself.
        tokio::time::timeout(PATIENCE, connection).await.unwrap().unwrap().unwrap();
    });
    server.wait();
}

#[test]
fn idle_connections_are_closed() {
    let server = start(|config| config.server.idle_deadline_ms = 200);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let response = post(&mut sender, "/v1/embeddings", json!({ "model": "vectors", "input": "x" })).await;
        assert_eq!(response.status(), 200);
        drop(response);
        tokio::time::timeout(PATIENCE, connection).await.expect("still open").unwrap().unwrap();
    });
}

#[test]
fn silence_after_the_preface_is_idleness() {
    let server = start(|config| config.server.idle_deadline_ms = 200);
    let mut client = server.connect();
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(client.is_closed());
}

#[test]
fn clients_that_never_open_their_window_are_cut() {
    let whole = json!({ "model": "base", "temperature": 0, "prompt": "x", "max_tokens": 4 });
    for (what, body) in [("a stream", endless(true)), ("one frame", whole)] {
        let server = start(|config| config.server.write_deadline_ms = 200);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
            let (mut sender, connection) = Builder::new(TokioExecutor::new())
                .initial_stream_window_size(0)
                .handshake(TokioIo::new(stream))
                .await
                .unwrap();
            let connection = tokio::spawn(connection);
            // Held, so that the client neither resets the stream nor leaves.
            let response = post(&mut sender, "/v1/completions", body).await;
            assert_eq!(response.status(), 200, "{what}");
            let ended = tokio::time::timeout(PATIENCE, connection).await;
            assert!(ended.is_ok(), "{what}: still open");
            let address = server.address;
            tokio::task::spawn_blocking(move || {
                eventually("the permit is free", || {
                    metrics(address).contains("\njanus_requests_in_flight 0\n")
                });
            })
            .await
            .unwrap();
            drop((response, sender));
        });
        server.wait_until_idle();
    }
}

#[test]
fn a_stream_that_stalls_ends_alone() {
    let server = start(|config| config.server.write_deadline_ms = 200);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let (mut sender, connection) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1000)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        // Held and not read.
        let mut stalled = post(&mut sender, "/v1/completions", endless(true)).await;
        let mut read = post(&mut sender, "/v1/completions", endless(true)).await;
        // The other goes on while the first is given up.
        let address = server.address;
        let given_up = tokio::task::spawn_blocking(move || {
            eventually("both run", || metrics(address).contains("\njanus_engine_running_sequences 2\n"));
            wait_for_a_sequence(address);
        });
        while !given_up.is_finished() {
            assert!(read.body_mut().frame().await.unwrap().unwrap().is_data());
        }
        given_up.await.unwrap();
        assert!(read.body_mut().frame().await.unwrap().is_ok());
        // Whoever reads on after all sees that it was ended.
        let mut last = stalled.body_mut().frame().await;
        while last.as_ref().is_some_and(Result::is_ok) {
            last = stalled.body_mut().frame().await;
        }
        assert!(last.is_some_and(|last| last.is_err()), "it ended as if it were whole");
        drop((read, stalled, sender));
        connection.abort();
    });
    server.wait_until_idle();
}

#[test]
fn slow_answers_are_not_the_clients_fault() {
    // Each token comes four times later than a client may keep a frame waiting.
    let server = start(|config| config.server.write_deadline_ms = 50);
    for stream in [true, false] {
        over_http2(&server, |mut sender| async move {
            let body = json!({ "model": "slow", "temperature": 0, "prompt": "x", "max_tokens": 3, "stream": stream });
            let response = post(&mut sender, "/v1/completions", body).await;
            let text = response.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8(text.to_vec()).unwrap();
            assert!(text.contains(r#""finish_reason":"length""#), "{text}");
        });
    }
}

//! The server's behaviour over real sockets, against models without weights.

#![allow(clippy::unwrap_used)]

mod admin;
mod chat;
mod clients;
mod completions;
mod config;
mod connections;
mod disconnects;
mod drain;
mod embeddings;
mod errors;
mod hosts;
mod http2;
mod limits;
mod starting;
mod support;
mod transfers;

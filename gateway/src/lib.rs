//! The gateway: everything between a socket, or a terminal, and the engine. A library, so that tests and
//! other programs of this workspace start a server in their own process.
//!
//! The way of a request: [`server`] accepts, [`connection`] speaks HTTP, [`stack`] lists the layers, one
//! of [`routes`] parses it for the engine and answers, in full or through [`sse`].
//!
//! - [`admission`]: how many requests are in work; [`keys`]: who may send them; [`host`]: to which name;
//! - [`error`]: every failure's way to the client;
//! - [`wiring`]: configuration and engine put together;
//! - [`telemetry`]: logs and metrics;
//! - [`config`]: one TOML file, environment and flags over it;
//! - [`catalogue`]: named models and the store they are pulled into;
//! - [`cli`]: the command line.

pub mod admission;
pub mod catalogue;
pub mod cli;
pub mod config;
pub mod connection;
pub mod error;
pub mod host;
mod ids;
pub mod keys;
pub mod routes;
pub mod server;
pub mod sse;
pub mod stack;
pub mod telemetry;
pub mod wiring;

pub use config::Config;
pub use server::{ServeError, Server, serve, shutdown_signal};

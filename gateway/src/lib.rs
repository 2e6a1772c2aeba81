//! The gateway: everything between a socket, or a terminal, and the engine. A library, so that tests and
//! other programs of this workspace start a server in their own process.
//!
//! The way of a request: [`server`] accepts, [`connection`] speaks HTTP, [`stack`] lists the layers, one
//! of [`routes`] parses it for the engine and answers, in full or through [`sse`].
//!
//! - [`admission`]: how many requests are in work; [`keys`]: who may send them, and on whose behalf;
//!   [`host`]: to which name;
//! - [`error`]: every failure's way to the client;
//! - [`wiring`]: configuration and engine put together; what answers before there is an engine;
//! - [`telemetry`]: logs and metrics;
//! - [`config`]: one TOML file, environment and flags over it;
//! - [`catalogue`]: named models and the store they are pulled into; [`open`]: from a name to a loaded model;
//! - [`loader`]: models that come and go while the server runs; [`shelf`]: which can;
//! - [`cli`]: the command line.

pub mod admission;
mod caller;
pub mod catalogue;
pub mod cli;
pub mod config;
pub mod connection;
pub mod error;
pub mod host;
mod ids;
pub mod keys;
pub mod loader;
pub mod open;
mod packed;
pub mod routes;
pub mod server;
pub mod shelf;
pub mod sse;
pub mod stack;
pub mod telemetry;
pub mod wiring;

pub use config::Config;
pub use server::{ServeError, Server};
pub use wiring::Front;

//! The gateway: everything between a socket, or a terminal, and the engine. A library, so that tests and
//! other programs of this workspace start a server in their own process.
//!
//! - [`catalogue`]: named models and the store they are pulled into;
//! - [`cli`]: the command line;
//! - [`config`]: one TOML file, environment and flags over it;
//! - [`telemetry`]: logs.

pub mod catalogue;
pub mod cli;
pub mod config;
pub mod telemetry;

pub use config::Config;

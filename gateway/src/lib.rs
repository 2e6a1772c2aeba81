//! The gateway: everything between a socket, or a terminal, and the engine.

pub mod catalogue;

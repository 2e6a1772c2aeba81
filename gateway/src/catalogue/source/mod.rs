//! Where a file's bytes can come from.
//!
//! A source only appends to a [`Partial`](super::partial::Partial) what follows its end; whether the
//! bytes are right is decided there, by hash, so no source has to be trusted.

pub mod http;
pub mod local;
pub mod pip;

use super::CatalogueError;

/// Why a source did not deliver.
#[derive(Debug)]
pub enum SourceError {
    /// Nobody answers: not worth asking for the next file either.
    Unreachable(String),
    /// It answers but does not have this file.
    Refused(String),
    /// Our own disk; no other source can help.
    Here(CatalogueError),
}

impl From<CatalogueError> for SourceError {
    fn from(error: CatalogueError) -> SourceError {
        SourceError::Here(error)
    }
}

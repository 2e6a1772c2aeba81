//! Chat templates against transformers, and against those who would abuse them.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod goldens;
mod injection;
mod limits;
#[path = "../support/real_models.rs"]
mod real_models;
mod sources;

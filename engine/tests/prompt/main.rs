//! Chat templates against transformers, and against those who would abuse them.

mod goldens;
mod injection;
mod limits;
mod sources;

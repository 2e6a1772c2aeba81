//! Networks: one file an architecture, one row each in [`registry`].
//!
//! Everything here is device-free: it is written over the ops of [`kernels::Device`] alone.
//!
//! | file | what is in it |
//! |---|---|
//! | [`registry`] | name in the file, task, constructor: one row an architecture |
//! | [`description`] | which row a file belongs to, and what it says of its network |
//! | [`config`] | sizes and constants of a network, range-checked, from GGUF metadata or `config.json` |
//! | [`fields`] | reading one typed value from either |
//! | [`rope`] | rotary scaling: linear, llama3, yarn, longrope |
//! | [`weights`], [`names`] | tensors by their GGUF names, whatever the file calls them |
//! | [`decoder`], [`encoder`] | the two stacks; an architecture's file states how it differs |
//! | [`parallel`] | several parts of a load at once |
//! | [`pooling`] | rows of an encoder to one vector |

pub mod config;
pub mod decoder;
pub mod description;
pub mod encoder;
pub mod fields;
pub mod names;
pub mod parallel;
pub mod pooling;
pub mod registry;
pub mod rope;
pub mod weights;

mod bert;
mod gemma3;
mod llama;
mod nomic_bert;
mod phi3;
mod qwen2;
mod qwen3;
mod xlm_roberta;

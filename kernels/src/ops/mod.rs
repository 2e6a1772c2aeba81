//! Every op besides the matrix product: its formula, and the body that all instruction sets share.

pub mod activation;
pub mod attention;
pub mod norm;
pub mod rope;
pub mod softmax;
#[cfg(test)]
mod tests;

pub use activation::Activation;
pub use attention::{AttentionParams, AttentionSpan, HEAD_DIM_MAX};
pub use rope::HeadTurn;
pub use softmax::{MASS_PIECE, MAXIMA_PIECE, Softmax};

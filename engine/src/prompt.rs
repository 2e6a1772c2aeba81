//! Chat template, then token ids; pure.

/// A model's own chat template.
pub struct ChatTemplate {}

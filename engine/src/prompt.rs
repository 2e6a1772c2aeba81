//! Chat template, then token ids; pure.

/// A rendered chat template that remembers which of its special tokens come from the template itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptText {
    marked: String,
    mark: Option<char>,
}

impl PromptText {
    /// The text with the marks still in it.
    pub(crate) fn marked(&self) -> &str {
        &self.marked
    }

    /// The character that stands where text from outside must not form a special token.
    pub(crate) fn mark(&self) -> Option<char> {
        self.mark
    }
}

/// A model's own chat template.
pub struct ChatTemplate {}

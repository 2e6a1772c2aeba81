//! What a request would have kept of its prompt. Hints: they never change who finds it, nor an answer.

/// For requests of the same tenant that begin alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheHint {
    /// Names those requests. What [`Retention::Day`] keeps is divided among the keys of a tenant.
    pub key: String,
    pub retention: Retention,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retention {
    /// As long as there is room, on disk too.
    #[default]
    Usual,
    /// The same, and never on disk.
    Memory,
    /// For a day after its last use, in preference to others as far as its share of the cache goes.
    Day,
}

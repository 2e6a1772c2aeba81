//! What a request would have kept of its prompt. Hints: they never change an answer, nor let anybody find more
//! than its tenant would.

/// For requests of the same tenant that begin alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheHint {
    /// Names those requests. What [`Retention::Day`] keeps is divided among the keys of a tenant.
    pub key: String,
    pub retention: Retention,
    /// Only requests with the same one find its pages, unless they are public. Empty: all of the tenant do.
    pub salt: String,
    /// No page is looked for, and none is left for others.
    pub off: bool,
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

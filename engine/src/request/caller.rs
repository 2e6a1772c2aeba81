//! Who asks. Set from what was authenticated, never from what a request says of itself: whoever can
//! choose a tenant can aim at another's cached prefixes (CVE-2025-46570).

use std::num::NonZeroU32;
use std::sync::Arc;

/// On whose behalf a request runs: what fairness counts and what caches are divided by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Cached prefixes are shared within a tenant and, unless the operator made them public, nowhere
    /// else.
    pub tenant: Arc<str>,
    /// Whom the service is counted for.
    pub principal: Arc<str>,
    /// Share of the service among backlogged principals of the same band.
    pub weight: NonZeroU32,
    pub band: Band,
}

/// Priority bands, the most urgent first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Band {
    System,
    #[default]
    Interactive,
    Batch,
    BestEffort,
}

impl Band {
    pub const ALL: [Band; 4] = [Band::System, Band::Interactive, Band::Batch, Band::BestEffort];
}

impl Default for Caller {
    /// Everybody who needs no key.
    fn default() -> Caller {
        Caller {
            tenant: Arc::from(""),
            principal: Arc::from(""),
            weight: NonZeroU32::MIN,
            band: Band::default(),
        }
    }
}

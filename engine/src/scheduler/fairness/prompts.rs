//! Shares out a step's prompt tokens among the accounts that have prompts to compute: to the least served
//! first, by what was computed for them so far.

use super::{AccountId, BANDS, BandSet, Fairness};
use crate::Band;

/// Prompts within this many tokens of service of the least served go newcomers first, then shortest first:
/// many answers begin sooner, and the counters drift apart by no more than this.
pub const DEFICIT_MAX: u64 = 512;

/// Given out at a time.
const SHARE_MAX: usize = 256;

/// An account's prompts, and how many of their tokens are not computed yet.
#[derive(Clone, Copy, Debug)]
pub struct PromptClaim {
    pub account: AccountId,
    pub tokens: usize,
}

/// Who had prompts to compute in the last step.
#[derive(Debug, Default)]
pub(super) struct Prompts {
    /// Ascending.
    accounts: Vec<AccountId>,
    /// Those of them who had none in the step before.
    newcomers: Vec<AccountId>,
    /// Whether that is known of the step being planned.
    known: bool,
    bands: BandSet,
    /// Counter of the least served among them, by band: where newcomers begin.
    least: [u64; BANDS.len()],
}

impl Prompts {
    pub fn begin_step(&mut self) {
        self.known = false;
    }

    pub fn bands(&self) -> BandSet {
        self.bands
    }
}

impl Fairness {
    /// Shares `budget` tokens of a step among accounts, one claim each. Returns what each of `claims`
    /// gets. May be asked again in the same step.
    pub fn share(&mut self, claims: &[PromptClaim], budget: usize) -> Vec<usize> {
        if !std::mem::replace(&mut self.prompts.known, true) {
            self.lift_newcomers(claims);
        }
        let mut open: Vec<Open> = claims.iter().map(|claim| self.open_claim(claim)).collect();
        let mut left = budget;
        while left > 0 {
            let Some(index) = self.first_in_turn(&open) else { break };
            let claim = &mut open[index];
            let tokens = claim.wanted.min(left).min(SHARE_MAX);
            claim.given += tokens;
            claim.wanted -= tokens;
            left -= tokens;
            let account = &self.accounts[claims[index].account.index()];
            claim.computed = claim.computed.saturating_add(account.price(tokens as u64));
        }
        open.iter().map(|claim| claim.given).collect()
    }

    /// Orders accounts by how soon their prompts are in turn.
    pub fn turn(&self, id: AccountId) -> (Band, u64) {
        let account = &self.accounts[id.index()];
        (account.band, account.computed)
    }

    fn lift_newcomers(&mut self, claims: &[PromptClaim]) {
        let mut continuing = [None::<u64>; BANDS.len()];
        let is_newcomer =
            |prompts: &Prompts, claim: &PromptClaim| prompts.accounts.binary_search(&claim.account).is_err();
        self.prompts.bands = BandSet::default();
        for claim in claims {
            let account = &self.accounts[claim.account.index()];
            let band = account.band as usize;
            self.prompts.bands[band] = true;
            if !is_newcomer(&self.prompts, claim) {
                continuing[band] =
                    Some(continuing[band].map_or(account.computed, |least| least.min(account.computed)));
            }
        }
        for (least, continuing) in self.prompts.least.iter_mut().zip(continuing) {
            *least = continuing.unwrap_or(*least);
        }
        let newcomers = claims.iter().filter(|claim| is_newcomer(&self.prompts, claim));
        self.prompts.newcomers = newcomers.map(|claim| claim.account).collect();
        for id in &self.prompts.newcomers {
            let account = &mut self.accounts[id.index()];
            account.computed = account.computed.max(self.prompts.least[account.band as usize]);
        }
        self.prompts.accounts.clear();
        self.prompts.accounts.extend(claims.iter().map(|claim| claim.account));
        self.prompts.accounts.sort_unstable();
    }

    fn open_claim(&self, claim: &PromptClaim) -> Open {
        let account = &self.accounts[claim.account.index()];
        Open {
            band: account.band as usize,
            is_newcomer: self.prompts.newcomers.contains(&claim.account),
            wanted: claim.tokens,
            given: 0,
            computed: account.computed,
            deficit: account.price(DEFICIT_MAX),
        }
    }

    /// Of those who want more than they got, the first in turn.
    fn first_in_turn(&self, open: &[Open]) -> Option<usize> {
        let mut wanting = BandSet::default();
        open.iter().filter(|claim| claim.wanted > 0).for_each(|claim| wanting[claim.band] = true);
        let band = self.floors.first(wanting)? as usize;
        let candidates = || open.iter().enumerate().filter(|(_, c)| c.band == band && c.wanted > 0);
        let least = candidates().map(|(_, claim)| claim.computed).min()?;
        let near = |(_, claim): &(usize, &Open)| claim.computed <= least.saturating_add(claim.deficit);
        let order = |(_, claim): &(usize, &Open)| (!claim.is_newcomer, claim.wanted, claim.computed);
        let in_turn = candidates().filter(near).min_by_key(order);
        in_turn.map(|(index, _)| index)
    }
}

/// A claim while tokens are given out.
struct Open {
    band: usize,
    is_newcomer: bool,
    wanted: usize,
    given: usize,
    /// The account's counter, what was given here included.
    computed: u64,
    /// How far above the least served it may stand to go by length.
    deficit: u64,
}

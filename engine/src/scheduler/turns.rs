//! Which model computes next, and for how long: the policy between models, as `fairness/` is the one
//! between the sequences of a model. Pure; the runner tells it who wants what, and how long things took.
//!
//! * Time is counted by principal, divided by its weight, over all models: a step of a chat model among
//!   those it served, a slice of an embedding model among those whose texts it holds. The model that the
//!   least served principal waits for is next; of models that the same one waits for, the least used.
//!   So two principals that always want something never drift apart by more than a turn of each, whatever
//!   models they use.
//! * Between bands urgency decides, over the floors of `fairness/bands.rs`.
//! * Who comes (back) starts no lower than those who are there.
//! * Beside chats at least as urgent, embeddings get slices no longer than a fixed part of the chat step
//!   before: that is what a stream's next token waits longer, however many texts there are. Without such
//!   chats they get all of their share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use super::fairness::BandSet;
use super::fairness::{BANDS, Floors};
use crate::{Band, Caller};

/// Counters and floors count in this unit: floors remember 65,536 of them.
const TICK: Duration = Duration::from_micros(10);

/// Fractions of a tick that counters count in: a heavy principal's ticks are worth little.
const FRACTION_BITS: u32 = 20;

/// When more principals are known, those who want nothing are forgotten.
const PRINCIPALS_MAX: usize = 1024;

/// How much time there is at once.
#[derive(Clone, Copy, Debug)]
pub struct TurnLimits {
    /// What embeddings get beside chats, of the time of the chats.
    pub embed_share: f64,
    /// A slice without chats, and the longest beside some.
    pub embed_time_max: Duration,
    pub mixed_embed_time_max: Duration,
}

/// Names a model as long as it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelKey(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Chat,
    Embed,
}

/// A principal, as far as it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payer {
    pub band: Band,
    pub principal: Arc<str>,
    pub weight: u64,
}

impl Payer {
    pub fn of(caller: &Caller) -> Payer {
        let weight = u64::from(caller.weight.get());
        Payer { band: caller.band, principal: Arc::clone(&caller.principal), weight }
    }

    /// What so much time adds to its counter.
    pub fn price(&self, time: Duration) -> u64 {
        // Not in whole ticks: rounded up each time, short steps would count for more than they are.
        let fractions = (time.as_nanos() << FRACTION_BITS) / TICK.as_nanos();
        (fractions / u128::from(self.weight.max(1))) as u64
    }
}

fn ticks(time: Duration) -> u64 {
    time.as_nanos().div_ceil(TICK.as_nanos()) as u64
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub model: ModelKey,
    /// For a slice of embeddings, how long it may be and whether chats wait for its end.
    pub time_max: Duration,
    pub beside_chats: bool,
}

#[derive(Debug)]
struct Account {
    key: (Band, Arc<str>),
    /// Time, in fractions of ticks, divided by its weight.
    service: u64,
    /// The last round it wanted something in.
    round: u64,
}

#[derive(Debug)]
struct ModelUse {
    key: ModelKey,
    /// Time, in ticks.
    used: u64,
    round: u64,
}

/// A principal waits for a model.
#[derive(Clone, Copy, Debug)]
struct Claim {
    model: ModelKey,
    kind: Kind,
    band: Band,
    account: usize,
}

#[derive(Debug)]
pub struct Turns {
    limits: TurnLimits,
    accounts: Vec<Account>,
    by_principal: BTreeMap<(Band, Arc<str>), usize>,
    models: Vec<ModelUse>,
    floors: Floors,
    /// Of this round.
    claims: Vec<Claim>,
    wanting: BandSet,
    round: u64,
    /// Where who comes begins, by kind: the least of those who were there a round ago.
    least: [[u64; BANDS.len()]; 2],
    least_used: u64,
    /// Nanoseconds for embeddings beside chats; below zero when their last slice took longer than it had.
    credit: i64,
}

impl Turns {
    pub fn new(limits: TurnLimits) -> Turns {
        Turns {
            limits,
            accounts: Vec::new(),
            by_principal: BTreeMap::new(),
            models: Vec::new(),
            floors: Floors::default(),
            claims: Vec::new(),
            wanting: BandSet::default(),
            round: 0,
            least: Default::default(),
            least_used: 0,
            credit: 0,
        }
    }

    /// Begins a round: claims come next, then turns.
    pub fn begin(&mut self) {
        self.round += 1;
        self.claims.clear();
        self.wanting = BandSet::default();
        if self.accounts.len() > PRINCIPALS_MAX {
            self.forget();
        }
    }

    /// A principal wants a model to go on. Those of the same model come one after another.
    pub fn claim(&mut self, model: ModelKey, kind: Kind, payer: Payer) {
        let band = payer.band;
        let account = self.account(payer);
        let same = |claim: &Claim| claim.model == model && claim.account == account;
        if self.claims.last().is_some_and(same) {
            return;
        }
        self.wanting[band as usize] = true;
        self.claims.push(Claim { model, kind, band, account });
    }

    /// Whose turn it is among those who claimed one.
    pub fn next(&mut self) -> Option<Turn> {
        self.lift_newcomers();
        let chats = self.claims.iter().filter(|claim| claim.kind == Kind::Chat);
        let most_urgent_chat = chats.map(|claim| claim.band).min();
        let is_beside = |claim: &Claim| most_urgent_chat.is_some_and(|band| band <= claim.band);
        let is_barred = |claim: &Claim| claim.kind == Kind::Embed && is_beside(claim) && self.credit <= 0;
        let mut wanting = BandSet::default();
        let open = || self.claims.iter().filter(|claim| !is_barred(claim));
        open().for_each(|claim| wanting[claim.band as usize] = true);
        let band = self.floors.first(wanting)?;
        let service = |claim: &&Claim| (self.accounts[claim.account].service, self.used(claim.model));
        let claim = open().filter(|claim| claim.band == band).min_by_key(service)?;
        let time_max = match (most_urgent_chat, is_beside(claim)) {
            (None, _) => self.limits.embed_time_max,
            (Some(_), true) => Duration::from_nanos(self.credit.max(0) as u64),
            (Some(_), false) => self.limits.mixed_embed_time_max,
        };
        Some(Turn { model: claim.model, time_max, beside_chats: most_urgent_chat.is_some() })
    }

    /// Nothing came of a model's turn: the others are next.
    pub fn pass_over(&mut self, model: ModelKey) {
        self.claims.retain(|claim| claim.model != model);
    }

    /// A chat model took a step.
    pub fn chat_ran(&mut self, took: Duration) {
        let TurnLimits { embed_share, mixed_embed_time_max, .. } = self.limits;
        let earned = took.mul_f64(embed_share).min(mixed_embed_time_max).as_nanos() as i64;
        // What is not used between two steps is gone: saved up, it would delay a later token by more.
        self.credit = (self.credit + earned).min(earned);
    }

    /// An embedding model ran a slice.
    pub fn embeddings_ran(&mut self, took: Duration, turn: &Turn) {
        self.credit = if turn.beside_chats { self.credit - took.as_nanos() as i64 } else { 0 };
    }

    /// Counts time of a model for one of those it ran for.
    pub fn charge(&mut self, model: ModelKey, payer: &Payer, took: Duration) {
        self.floors.charge(payer.band, ticks(took), self.wanting);
        let account = self.account(payer.clone());
        self.accounts[account].service += payer.price(took);
        if let Some(model) = self.models.iter_mut().find(|known| known.key == model) {
            model.used += ticks(took);
        }
    }

    /// A principal's time so far, divided by its weight: who has least is next.
    pub fn service(&mut self, payer: &Payer) -> u64 {
        let account = self.account(payer.clone());
        self.accounts[account].service
    }

    /// The band that is in turn among those of `wanting`.
    pub fn first_band(&self, wanting: BandSet) -> Option<Band> {
        self.floors.first(wanting)
    }

    pub fn forget_model(&mut self, key: ModelKey) {
        self.models.retain(|model| model.key != key);
    }

    fn account(&mut self, payer: Payer) -> usize {
        let key = (payer.band, payer.principal);
        if let Some(&index) = self.by_principal.get(&key) {
            return index;
        }
        self.accounts.push(Account { key: key.clone(), service: 0, round: 0 });
        self.by_principal.insert(key, self.accounts.len() - 1);
        self.accounts.len() - 1
    }

    fn used(&self, model: ModelKey) -> u64 {
        self.models.iter().find(|known| known.key == model).map_or(0, |model| model.used)
    }

    /// The least counter of those who want a model of this kind as they did a round ago, by band.
    fn least_continuing(&self, kind: Kind) -> [Option<u64>; BANDS.len()] {
        let mut continuing = [None::<u64>; BANDS.len()];
        for claim in self.claims.iter().filter(|claim| claim.kind == kind) {
            let account = &self.accounts[claim.account];
            if account.round + 1 >= self.round {
                let least = &mut continuing[claim.band as usize];
                *least = Some(least.map_or(account.service, |least| least.min(account.service)));
            }
        }
        continuing
    }

    /// Lifts the counters of those who wanted nothing a round ago to the least of those who did. Chats begin
    /// where chats stand, if there are any: embeddings beside them may be held back for hours, and who began
    /// there would have all turns until it caught up with the chats.
    fn lift_newcomers(&mut self) {
        let continuing = [self.least_continuing(Kind::Chat), self.least_continuing(Kind::Embed)];
        for (kind, least) in self.least.iter_mut().enumerate() {
            for (band, least) in least.iter_mut().enumerate() {
                let other = continuing[1 - kind][band].unwrap_or(0);
                *least = continuing[kind][band].unwrap_or((*least).max(other));
            }
        }
        for claim in &self.claims {
            let account = &mut self.accounts[claim.account];
            if account.round + 1 < self.round {
                account.service = account.service.max(self.least[claim.kind as usize][claim.band as usize]);
            }
            account.round = self.round;
        }
        self.lift_models();
    }

    fn lift_models(&mut self) {
        let continuing = self.models.iter().filter(|model| model.round + 1 >= self.round);
        self.least_used = continuing.map(|model| model.used).min().unwrap_or(self.least_used);
        for claim in &self.claims {
            match self.models.iter_mut().find(|model| model.key == claim.model) {
                Some(model) => {
                    if model.round + 1 < self.round {
                        model.used = model.used.max(self.least_used);
                    }
                    model.round = self.round;
                }
                None => {
                    self.models.push(ModelUse { key: claim.model, used: self.least_used, round: self.round })
                }
            }
        }
    }

    /// Forgets who wants nothing.
    fn forget(&mut self) {
        let round = self.round;
        self.accounts.retain(|account| account.round + 1 >= round);
        let keys = self.accounts.iter().enumerate();
        self.by_principal = keys.map(|(index, account)| (account.key.clone(), index)).collect();
    }
}

#[cfg(test)]
mod tests;

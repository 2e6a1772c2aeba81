//! Whom to serve next: weighted Virtual Token Counters (Sheng et al., "Fairness in Serving Large
//! Language Models", OSDI 2024) inside priority bands. Knows accounts and counters, no pages.
//!
//! * A principal's service in a band is counted in one account: a token of its prompts costs 1, a token
//!   generated 2, divided by its weight. Prompt tokens found in the cache or computed again cost nothing.
//! * Whoever waits with the least service is admitted first, so two principals that both always wait
//!   never drift apart by more than what one of them can be given at a time.
//! * Who comes (back) starts no lower than those who wait: nobody saves up service by being away. That
//!   also makes it safe to forget an account that was not used for a while.
//! * The tokens of a step that go into prompts are shared out by counters of their own, charged as they
//!   are computed: a newcomer need not wait for all prompts admitted before it.
//! * Which band goes first is decided in `bands.rs`, whose prompts get a step's tokens in `prompts.rs`, and
//!   who may be admitted before the one in turn, because its prompt is cached, in `early.rs`.
//!
//! Service is not withheld while there is any to give: whoever finds no room for all of a prompt is
//! overtaken by the more urgent, within bounds (`admit.rs`).

mod bands;
mod early;
mod prompts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub use self::bands::{BANDS, BandSet, Floors};
#[cfg(test)]
pub use self::prompts::DEFICIT_MAX;
pub use self::prompts::PromptClaim;
use self::prompts::Prompts;
use super::sequence::SequenceId;
use super::turns::Payer;
use crate::{Band, Caller};

/// What a generated token costs; a prompt token costs 1.
pub const OUTPUT_COST: u64 = 2;

/// One token of service at weight 1: counters are whole numbers.
const TOKEN: u64 = 1 << 20;

/// An account not used for so long is forgotten, and the one not used for longest when there are more.
const FORGET_AFTER: Duration = Duration::from_secs(600);
const IDLE_ACCOUNTS_MAX: usize = 1024;

/// An account that had sequences so lately may well come back: room is kept for it.
const COMPANY_FOR: Duration = Duration::from_secs(60);

/// Whom to try to admit. When there is no room for the first, the others may be: they are more urgent.
pub struct Contenders {
    pub candidates: Vec<SequenceId>,
    /// How long ago the first, whose band is passed over, should have been admitted.
    pub overdue: Option<Duration>,
}

/// Names an account as long as it has sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AccountId(u32);

#[derive(Debug)]
struct Account {
    principal: Arc<str>,
    band: Band,
    weight: u64,
    /// Service admitted to: prompts in full on admission, generated tokens one by one.
    admitted: u64,
    /// Service computed, which the sharing out of prompt tokens goes by.
    computed: u64,
    /// Sequences that have not ended, and those of them with pages.
    live: usize,
    running: usize,
    /// New sequences that can be admitted, by rank.
    waiting: BTreeSet<SequenceId>,
    /// Its place in its band's line: `admitted` as of when it was put there.
    queued_at: Option<u64>,
    /// When its last sequence ended.
    idle_since: Duration,
    /// Service of the step being planned, in tokens.
    step_cost: u64,
}

/// One band's line.
#[derive(Debug, Default)]
struct Line {
    /// Accounts with new sequences, the least served first. Counters that grew since are put right
    /// when they come to the front.
    accounts: BTreeSet<(u64, AccountId)>,
    /// Preempted sequences that can go on, by rank: they were chosen before.
    resuming: BTreeSet<SequenceId>,
    /// The account admitted last, or its counter once it is forgotten.
    last: Option<AccountId>,
    last_admitted: u64,
    /// Prompt tokens of those admitted before the one in turn since somebody was admitted in turn.
    early_tokens: usize,
}

#[derive(Debug, Default)]
pub struct Fairness {
    accounts: Vec<Account>,
    /// Places in `accounts` that nobody uses.
    vacant: Vec<AccountId>,
    by_principal: BTreeMap<(Band, Arc<str>), AccountId>,
    /// Those without sequences, the longest unused first.
    idle: BTreeSet<(Duration, AccountId)>,
    lines: [Line; BANDS.len()],
    floors: Floors,
    prompts: Prompts,
    /// Whom the step being planned serves.
    served: Vec<AccountId>,
}

impl Fairness {
    /// The account of a caller for one more sequence, until [`Fairness::end`].
    pub fn open(&mut self, caller: &Caller) -> AccountId {
        let key = (caller.band, Arc::clone(&caller.principal));
        let id = match self.by_principal.get(&key) {
            Some(&id) => id,
            None => self.create(key),
        };
        let account = &mut self.accounts[id.index()];
        self.idle.remove(&(account.idle_since, id));
        account.live += 1;
        account.weight = u64::from(caller.weight.get());
        id
    }

    /// One of the account's sequences ended, wherever it was.
    pub fn end(&mut self, id: AccountId, now: Duration) {
        let account = &mut self.accounts[id.index()];
        account.live -= 1;
        if account.live == 0 {
            account.idle_since = now;
            self.idle.insert((now, id));
        }
    }

    /// Lets a new sequence wait for its first admission.
    pub fn wait(&mut self, id: AccountId, sequence: SequenceId) {
        if self.accounts[id.index()].waiting.is_empty() {
            let lifted = self.least_admitted(self.accounts[id.index()].band);
            let account = &mut self.accounts[id.index()];
            account.admitted = account.admitted.max(lifted);
        }
        self.accounts[id.index()].waiting.insert(sequence);
        self.requeue(id);
    }

    /// Lets a preempted sequence wait to go on.
    pub fn wait_to_resume(&mut self, id: AccountId, sequence: SequenceId) {
        let band = self.accounts[id.index()].band;
        self.lines[band as usize].resuming.insert(sequence);
    }

    /// Takes a sequence out of line: it ended or paused.
    pub fn leave(&mut self, id: AccountId, sequence: SequenceId) {
        let account = &mut self.accounts[id.index()];
        account.waiting.remove(&sequence);
        self.lines[account.band as usize].resuming.remove(&sequence);
        self.requeue(id);
    }

    /// Forgets who is long gone and takes note of who waits. Once a step.
    pub fn begin_step(&mut self, now: Duration) {
        self.floors.watch(now, self.waiting_bands());
        self.prompts.begin_step();
        for id in self.served.drain(..) {
            self.accounts[id.index()].step_cost = 0;
        }
        while let Some(&(since, id)) = self.idle.first() {
            if since + FORGET_AFTER > now && self.idle.len() <= IDLE_ACCOUNTS_MAX {
                return;
            }
            self.idle.pop_first();
            let account = &self.accounts[id.index()];
            let line = &mut self.lines[account.band as usize];
            if line.last.take_if(|last| *last == id).is_some() {
                line.last_admitted = account.admitted;
            }
            self.by_principal.remove(&(account.band, Arc::clone(&account.principal)));
            self.vacant.push(id);
        }
    }

    /// Whether at most one account has sequences, or had some a moment ago.
    pub fn is_alone(&self, now: Duration) -> bool {
        let live = self.by_principal.len() - self.idle.len();
        let lately = self.idle.iter().rev().take_while(|(since, _)| *since + COMPANY_FOR > now);
        live + lately.take(2).count() < 2
    }

    /// Who is to be admitted next.
    pub fn contenders(&mut self, now: Duration) -> Contenders {
        let waiting = self.waiting_bands();
        let overdue = self.floors.overdue(now);
        let first = overdue.map(|(_, band)| band).or_else(|| self.floors.first(waiting));
        let urgent = BANDS.into_iter().take_while(|&band| Some(band) < first);
        let candidates = first.into_iter().chain(urgent).filter_map(|band| self.head(band)).collect();
        Contenders { candidates, overdue: overdue.map(|(time, _)| time) }
    }

    /// Admits a new sequence, whose turn it is, that will compute so many tokens of its prompt.
    pub fn admit(&mut self, id: AccountId, sequence: SequenceId, prompt_tokens: usize, now: Duration) {
        self.book(id, sequence, prompt_tokens);
        self.lines[self.accounts[id.index()].band as usize].early_tokens = 0;
        self.enter(id, now);
    }

    /// Counts a new sequence as admitted.
    fn book(&mut self, id: AccountId, sequence: SequenceId, prompt_tokens: usize) {
        let account = &mut self.accounts[id.index()];
        account.waiting.remove(&sequence);
        self.lines[account.band as usize].last = Some(id);
        account.admitted = account.admitted.saturating_add(account.price(prompt_tokens as u64));
        self.requeue(id);
    }

    /// Admits a preempted sequence again.
    pub fn resume(&mut self, id: AccountId, sequence: SequenceId, now: Duration) {
        self.leave(id, sequence);
        self.enter(id, now);
    }

    /// One of the account's sequences gave up its pages, to wait or at its end.
    pub fn yield_place(&mut self, id: AccountId) {
        self.accounts[id.index()].running -= 1;
    }

    /// How many of the account's sequences have pages.
    pub fn running(&self, id: AccountId) -> usize {
        self.accounts[id.index()].running
    }

    /// Gives back what a sequence that ended was admitted to and did not get.
    pub fn refund(&mut self, id: AccountId, prompt_tokens: usize) {
        let account = &mut self.accounts[id.index()];
        account.admitted = account.admitted.saturating_sub(account.price(prompt_tokens as u64));
        self.requeue(id);
    }

    /// A step computes so many tokens of a prompt for the first time.
    pub fn charge_prompt(&mut self, id: AccountId, tokens: usize) {
        let account = &mut self.accounts[id.index()];
        account.computed = account.computed.saturating_add(account.price(tokens as u64));
        self.charge_step(id, tokens as u64);
    }

    /// A step generates a token.
    pub fn charge_output(&mut self, id: AccountId) {
        let account = &mut self.accounts[id.index()];
        let price = account.price(OUTPUT_COST);
        account.admitted = account.admitted.saturating_add(price);
        account.computed = account.computed.saturating_add(price);
        self.charge_step(id, OUTPUT_COST);
    }

    fn charge_step(&mut self, id: AccountId, cost: u64) {
        let account = &mut self.accounts[id.index()];
        if account.step_cost == 0 && cost > 0 {
            self.served.push(id);
        }
        account.step_cost += cost;
        let band = account.band;
        self.floors.charge(band, cost, self.wanting_bands());
    }

    /// Whom the step planned last serves, and with how many tokens; generated ones count twice.
    pub fn step_costs(&self) -> impl Iterator<Item = (Payer, u64)> {
        self.served.iter().map(|id| {
            let Account { band, principal, weight, step_cost, .. } = &self.accounts[id.index()];
            let payer = Payer { band: *band, principal: Arc::clone(principal), weight: *weight };
            (payer, *step_cost)
        })
    }

    /// Another model served a principal that also has work here; it is worth so many tokens of this one.
    pub fn charge_elsewhere(&mut self, band: Band, principal: &Arc<str>, tokens: u64) {
        let Some(&id) = self.by_principal.get(&(band, Arc::clone(principal))) else { return };
        let account = &mut self.accounts[id.index()];
        if account.live > 0 {
            let price = account.price(tokens);
            account.admitted = account.admitted.saturating_add(price);
            account.computed = account.computed.saturating_add(price);
        }
    }

    fn create(&mut self, key: (Band, Arc<str>)) -> AccountId {
        let account = Account {
            principal: Arc::clone(&key.1),
            band: key.0,
            weight: 1,
            admitted: 0,
            computed: 0,
            live: 0,
            running: 0,
            waiting: BTreeSet::new(),
            queued_at: None,
            idle_since: Duration::ZERO,
            step_cost: 0,
        };
        let id = match self.vacant.pop() {
            Some(id) => {
                self.accounts[id.index()] = account;
                id
            }
            None => {
                self.accounts.push(account);
                AccountId(self.accounts.len() as u32 - 1)
            }
        };
        self.by_principal.insert(key, id);
        id
    }

    fn enter(&mut self, id: AccountId, now: Duration) {
        let account = &mut self.accounts[id.index()];
        account.running += 1;
        self.floors.admitted(account.band, now);
    }

    /// Puts an account into its band's line under its counter as it is, if it has anyone waiting.
    fn requeue(&mut self, id: AccountId) {
        let account = &mut self.accounts[id.index()];
        let line = &mut self.lines[account.band as usize];
        let queued_at = (!account.waiting.is_empty()).then_some(account.admitted);
        if queued_at == account.queued_at {
            return;
        }
        if let Some(before) = std::mem::replace(&mut account.queued_at, queued_at) {
            line.accounts.remove(&(before, id));
        }
        if let Some(at) = queued_at {
            line.accounts.insert((at, id));
        }
    }

    /// The account of a band that waits with the least service.
    fn least_served(&mut self, band: Band) -> Option<AccountId> {
        loop {
            let &(queued_at, id) = self.lines[band as usize].accounts.first()?;
            if self.accounts[id.index()].admitted == queued_at {
                return Some(id);
            }
            self.requeue(id);
        }
    }

    /// Where those who come begin: at the counter of the least served who waits, or else of the one
    /// admitted last.
    fn least_admitted(&mut self, band: Band) -> u64 {
        match self.least_served(band) {
            Some(id) => self.accounts[id.index()].admitted,
            None => {
                let Line { last, last_admitted, .. } = &self.lines[band as usize];
                last.map_or(*last_admitted, |id| self.accounts[id.index()].admitted)
            }
        }
    }

    fn head(&mut self, band: Band) -> Option<SequenceId> {
        let resuming = self.lines[band as usize].resuming.first().copied();
        resuming.or_else(|| {
            let id = self.least_served(band)?;
            self.accounts[id.index()].waiting.first().copied()
        })
    }

    fn waiting_bands(&self) -> BandSet {
        self.lines.each_ref().map(|line| !line.accounts.is_empty() || !line.resuming.is_empty())
    }

    fn wanting_bands(&self) -> BandSet {
        let mut wanting = self.waiting_bands();
        wanting.iter_mut().zip(self.prompts.bands()).for_each(|(wants, prompts)| *wants |= prompts);
        wanting
    }
}

impl AccountId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

impl Account {
    /// What `tokens` tokens add to a counter.
    fn price(&self, tokens: u64) -> u64 {
        tokens.saturating_mul(TOKEN) / self.weight
    }
}

//! Prompts that are cached go before the one in turn, as far as fairness allows.

use super::super::*;
use super::clients::{Arrivals, Client, Costs, Machine};
use super::{limits, scope};
use crate::Band;

/// Tokens of the prefix that is cached.
const PREFIX: usize = 8 * kernels::PAGE_TOKENS;

/// A request of so many tokens; the first of them are the prefix, if it is said to.
struct Ask {
    principal: &'static str,
    band: Band,
    tokens: usize,
    cached: bool,
}

fn ask(principal: &'static str, tokens: usize, cached: bool) -> Ask {
    Ask { principal, band: Band::Interactive, tokens, cached }
}

fn arrival(id: u64, ask: &Ask) -> SchedulerEvent {
    let mut prompt = vec![1000 + id as u32; ask.tokens];
    if ask.cached {
        prompt[..PREFIX.min(ask.tokens)].fill(7);
    }
    let caller = Caller { principal: ask.principal.into(), band: ask.band, ..Caller::default() };
    SchedulerEvent::Arrived {
        id: SequenceId(id),
        caller,
        prompt,
        score_prompt: false,
        chain: scope(0, 0).into(),
    }
}

/// Lets requests wait for the one place there is, with the prefix in the cache. Returns their order.
fn order(asks: &[Ask]) -> Vec<u64> {
    let limits = SchedulerLimits { running_sequences_max: 1, step_tokens_max: 100_000, ..limits(1000) };
    let mut scheduler = Scheduler::new(limits);
    let warm = Ask { principal: "warm", band: Band::System, tokens: PREFIX + 1, cached: true };
    let mut running = scheduler.step(Duration::ZERO, [arrival(0, &warm)]).admitted;
    let mut events: Vec<SchedulerEvent> = (1..).zip(asks).map(|(id, ask)| arrival(id, ask)).collect();
    let mut order = Vec::new();
    while let Some(id) = running.pop() {
        events.insert(0, SchedulerEvent::Ran { rows: 1, took: Duration::from_millis(1) });
        events.push(SchedulerEvent::Ended { id });
        running = scheduler.step(Duration::ZERO, events.drain(..)).admitted;
        order.extend(running.iter().map(|id| id.0));
    }
    order
}

#[test]
fn a_cached_prompt_goes_first_within_the_deficit_and_its_band() {
    let urgent = |tokens| Ask { band: Band::System, ..ask("u", tokens, false) };
    let (long, short) = (PREFIX + 40, 20);
    let rows = [
        // Of one principal, and of two.
        (vec![ask("a", long, false), ask("a", long, true)], vec![2, 1]),
        (vec![ask("a", long, false), ask("b", long, true)], vec![2, 1]),
        (vec![ask("a", long, true), ask("a", long, false)], vec![1, 2]),
        // More of the first is cached, or as much.
        (vec![ask("a", long, true), ask("b", PREFIX - 40, true)], vec![1, 2]),
        (vec![ask("a", long, true), ask("b", long, true)], vec![1, 2]),
        // It would stand higher than the short one does: what is left to compute is more.
        (vec![ask("a", short, false), ask("b", long, true)], vec![1, 2]),
        // Never before the more urgent.
        (vec![urgent(long), ask("b", long, true)], vec![1, 2]),
        // Once its principal has had more than the first in turn asks for, it is the other's turn.
        (
            vec![
                ask("a", 120, false),
                ask("b", PREFIX + 50, true),
                ask("b", PREFIX + 50, true),
                ask("b", PREFIX + 50, true),
            ],
            vec![2, 3, 1, 4],
        ),
    ];
    for (row, (asks, expected)) in rows.into_iter().enumerate() {
        assert_eq!(order(&asks), expected, "row {row}");
    }
}

#[test]
fn whoever_is_in_turn_is_overtaken_by_sixteen_at_most() {
    // Each of another principal, so that no counter is in the way.
    let names = ["b", "c", "d", "e", "f", "g", "h", "i"];
    let mut asks = vec![ask("a", PREFIX + 40, false)];
    asks.extend((0..64).map(|i| ask(names[i % names.len()], PREFIX + 1, true)));
    let place = order(&asks).iter().position(|&id| id == 1);
    assert_eq!(place, Some(16), "512 tokens, of which each counts as a page");
}

#[test]
fn less_is_computed_where_pages_are_few() {
    // Conversations over a few prefixes that do not all fit, beside prompts that begin alike with none.
    let client = Client {
        arrivals: Arrivals::Backlog(12),
        prompt_tokens_min: PREFIX + 10,
        prompt_tokens_max: PREFIX + 40,
        prefix_tokens: PREFIX,
        ..Client::default()
    };
    let clients = vec![Client { prefixes: 6, ..client.clone() }, client];
    let limits = SchedulerLimits { running_sequences_max: 4, ..limits(60) };
    let mut machine = Machine::new(1, limits, Costs::default(), clients);
    (0..4000).for_each(|_| machine.step());
    let record = &machine.records[0];
    let found = record.reused as f64 / (record.admitted_at.len() * PREFIX) as f64;
    println!("{:.0} % of prefixes were found in the cache", 100.0 * found);
    // In order of service alone 63 % are.
    assert!(found > 0.75, "{found} of prefixes were found");
}

//! A prompt that waits for what another computes is no later for it than if it computed all itself.
//! `SCHEDULER_SEED=n cargo test -p engine followers` replays one seed.

use super::super::*;
use super::{limits, scope, seeds};
use crate::Band;
use crate::sampler::random::CounterRandom;

/// The one that comes after the others.
const LAST: SequenceId = SequenceId(2);

/// A prompt of a principal; those of one text begin alike.
#[derive(Clone, Copy, Debug)]
struct Prompt {
    principal: usize,
    band: Band,
    text: u32,
    tokens: usize,
    /// The step it arrives before.
    arrives: usize,
}

/// Two that are at work when the last one arrives; the first has the same text.
fn prompts(seed: u64) -> [Prompt; 3] {
    let random = CounterRandom::new(seed);
    let draws = std::cell::Cell::new(0);
    let below = |bound: usize| {
        draws.set(draws.get() + 1);
        (random.uniform(draws.get()) * bound as f64) as usize
    };
    let urgent = fairness::BANDS[below(2)];
    let less_urgent = fairness::BANDS[urgent as usize + below(3)];
    let prompt = |band, text, arrives| {
        let (principal, tokens) = (below(3), 40 + below(1500));
        Prompt { principal, band, text, tokens, arrives }
    };
    [prompt(less_urgent, 1, 0), prompt(urgent, 2, below(4)), prompt(urgent, 1, 1 + below(5))]
}

fn step_tokens(seed: u64) -> usize {
    41 + seed as usize % 200
}

/// Steps from its arrival until the last prompt is computed, and prompt tokens computed by then.
fn run(prompts: &[Prompt], seed: u64) -> (usize, usize) {
    let limits = SchedulerLimits { step_tokens_max: step_tokens(seed), ..limits(200) };
    let mut scheduler = Scheduler::new(limits);
    let (mut events, mut computed) = (Vec::new(), 0);
    for step in 0..10_000 {
        for (id, prompt) in (0..).zip(prompts).filter(|(_, prompt)| prompt.arrives == step) {
            let principal = prompt.principal.to_string().into();
            events.push(SchedulerEvent::Arrived {
                id: SequenceId(id),
                caller: Caller { principal, band: prompt.band, ..Caller::default() },
                prompt: vec![prompt.text; prompt.tokens],
                score_prompt: false,
                chain: scope(0, 0).into(),
            });
        }
        let actions = scheduler.step(Duration::ZERO, events.drain(..));
        computed += actions.batch.tokens.len();
        if actions.outputs.iter().any(|output| output.id == LAST) {
            return (step - prompts[LAST.0 as usize].arrives, computed);
        }
        events.push(SchedulerEvent::Ran { rows: 1, took: Duration::from_millis(1) });
        events.extend(actions.outputs.iter().map(|output| SchedulerEvent::Ended { id: output.id }));
    }
    panic!("it never ends");
}

#[test]
fn followers_are_no_later_than_if_they_computed_all() {
    let (mut sooner, mut later, mut saved) = (0, 0, 0);
    let seeds = seeds(2000);
    for seed in seeds.clone() {
        let alike = prompts(seed);
        let mut other = alike;
        other[0].text = 3;
        let ((with, computed), (without, computed_without)) = (run(&alike, seed), run(&other, seed));
        let replay = format!("replay with SCHEDULER_SEED={seed} cargo test -p engine followers");
        // What it has not in common is computed in a step of its own, and in a band the shorter prompt may be
        // first by so many tokens: that of whom it follows is another one.
        let deficit = if alike[0].band == alike[2].band { fairness::DEFICIT_MAX as usize } else { 0 };
        assert!(
            with <= without + 1 + deficit / step_tokens(seed),
            "{with} steps instead of {without}: {alike:?}; {replay}"
        );
        later += usize::from(with > without);
        sooner += usize::from(with < without);
        saved += computed_without.saturating_sub(computed);
    }
    println!("{sooner} sooner, {later} later, {saved} tokens saved");
    assert!(seeds.end - seeds.start == 1 || sooner > 500, "nothing is shared");
}

#[test]
fn whom_an_urgent_prompt_follows_has_its_turn() {
    let limits = SchedulerLimits { running_sequences_max: 8, step_tokens_max: 100, ..limits(100) };
    let mut scheduler = Scheduler::new(limits);
    let arrived = |id: u64, band: Band, text: u32, tokens: usize| SchedulerEvent::Arrived {
        id: SequenceId(id),
        caller: Caller { principal: id.to_string().into(), band, ..Caller::default() },
        prompt: vec![text; tokens],
        score_prompt: false,
        chain: scope(0, 0).into(),
    };
    scheduler.step(Duration::ZERO, [arrived(0, Band::Batch, 1, 500)]);
    let ran = SchedulerEvent::Ran { rows: 100, took: Duration::from_millis(1) };
    let events = [ran, arrived(1, Band::Interactive, 1, 150), arrived(2, Band::Interactive, 2, 700)];
    let actions = scheduler.step(Duration::ZERO, events);
    assert_eq!(actions.reused, [Reused { id: SequenceId(1), tokens: 96 }], "three pages were full");
    // The less urgent one is four tokens into the next page: it gets what the urgent one wants.
    assert_eq!([0, 1, 2].map(|id| super::rows_of(&actions, id)), [50, 0, 50]);
    let ran = SchedulerEvent::Ran { rows: 100, took: Duration::from_millis(1) };
    let actions = scheduler.step(Duration::ZERO, [ran]);
    assert_eq!(actions.reused, [Reused { id: SequenceId(1), tokens: 32 }]);
    assert_eq!(super::rows_of(&actions, 1), 22, "the rest, which is no whole page");
}

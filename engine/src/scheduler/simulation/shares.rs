//! Who gets how much: fairness between principals, floors of bands, what a flood does to others, over
//! seeded clients of a virtual machine. `SCHEDULER_SEED=n cargo test -p engine shares` replays one seed.

use std::collections::BTreeMap;

use kernels::PAGE_TOKENS;

use super::super::*;
use super::clients::{Arrivals, Client, Costs, Machine};
use super::{limits, scope, seeds};
use crate::Band;

const PROMPT_MAX: usize = 64;
const OUTPUT_MAX: usize = 24;

/// How far the services of two principals that both always wait may drift apart, each divided by its
/// weight. From the last time that the better served one was admitted on, when it stood no higher than
/// the other, it got at most one prompt and what its running sequences still could; and what a counter
/// says and what was computed differ by the prompts of running sequences at most. The same holds for the
/// other one since the time both began to wait.
fn gap_max(limits: &SchedulerLimits, weights: [u32; 2]) -> f64 {
    let batch = limits.running_sequences_max * (PROMPT_MAX + 2 * OUTPUT_MAX);
    weights.iter().map(|weight| (PROMPT_MAX + batch) as f64 / f64::from(*weight)).sum()
}

/// Service of pairs since both wait without a break: difference when that began.
#[derive(Default)]
pub struct Gaps {
    since: BTreeMap<(usize, usize), f64>,
    /// Largest gap seen, in parts of what is allowed.
    pub worst: f64,
}

impl Gaps {
    pub fn check(&mut self, machine: &Machine) {
        for first in 0..machine.clients.len() {
            for second in first + 1..machine.clients.len() {
                self.check_pair(machine, (first, second));
            }
        }
    }

    fn check_pair(&mut self, machine: &Machine, pair: (usize, usize)) {
        let (a, b) = (&machine.clients[pair.0], &machine.clients[pair.1]);
        let (of_a, of_b) = (&machine.records[pair.0], &machine.records[pair.1]);
        if a.band != b.band || of_a.waiting == 0 || of_b.waiting == 0 {
            self.since.remove(&pair);
            return;
        }
        let difference =
            of_a.service as f64 / f64::from(a.weight) - of_b.service as f64 / f64::from(b.weight);
        let gap = (difference - *self.since.entry(pair).or_insert(difference)).abs();
        self.worst = self.worst.max(gap / gap_max(&machine.limits, [a.weight, b.weight]));
    }
}

/// Clients of all kinds, drawn from the seed.
pub fn crowd(seed: u64) -> Machine {
    let mut dice = Machine::new(seed ^ 0x5eed, limits(1), Costs::default(), Vec::new());
    let clients = (0..2 + dice.below(5)).map(|_| {
        let arrivals = match dice.below(6) {
            0 => Arrivals::Poisson(1.0 + 20.0 * dice.uniform()),
            1 => Arrivals::Bursts(1 + dice.below(30), 0.2 + dice.uniform()),
            2 => Arrivals::Turns(1 + dice.below(6), 0.5 * dice.uniform()),
            _ => Arrivals::Backlog(1 + dice.below(40)),
        };
        Client {
            arrivals,
            weight: [1, 1, 1, 2, 5][dice.below(5)],
            band: fairness::BANDS[[0, 1, 1, 1, 1, 2, 3][dice.below(7)]],
            prompt_tokens_min: 1,
            prompt_tokens_max: PROMPT_MAX,
            output_tokens_max: OUTPUT_MAX,
            prefixes: [0, 0, 1, 3, 20][dice.below(5)],
            prefix_tokens: PAGE_TOKENS,
            cancels_one_in: [usize::MAX, 10][dice.below(2)],
            guesses_max: [0, 0, 3][dice.below(3)],
            ..Client::default()
        }
    });
    let clients = clients.collect();
    // From places for all to pages for three.
    let limits = SchedulerLimits { running_sequences_max: 1 + dice.below(10), ..limits(9 + dice.below(60)) };
    Machine::new(seed, limits, Costs::default(), clients)
}

#[test]
fn shares_stay_within_the_bound_for_every_crowd() {
    let (mut worst, mut preemptions, mut arrived, mut reused) = (0.0_f64, 0, 0, 0);
    let seeds = seeds(2000);
    for seed in seeds.clone() {
        let run = std::panic::catch_unwind(|| {
            let (mut machine, mut gaps) = (crowd(seed), Gaps::default());
            for _ in 0..150 {
                machine.step();
                gaps.check(&machine);
            }
            assert!(gaps.worst <= 1.0, "a gap of {:.2} times what is allowed", gaps.worst);
            machine.finish();
            (machine, gaps)
        });
        let replay = || panic!("replay with SCHEDULER_SEED={seed} cargo test -p engine shares");
        let (machine, gaps) = run.unwrap_or_else(|_| replay());
        worst = worst.max(gaps.worst);
        preemptions += machine.preemptions;
        arrived += machine.records.iter().map(|record| record.arrived).sum::<usize>();
        reused += machine.records.iter().map(|record| record.reused).sum::<usize>();
    }
    println!("{arrived} arrivals, {preemptions} preemptions, gaps up to {worst:.2} of what is allowed");
    println!("{reused} prompt tokens found in the cache");
    let has_teeth = preemptions > 1000 && reused > 100_000;
    assert!(seeds.end - seeds.start == 1 || has_teeth, "the simulation lost its teeth");
}

/// A principal that always has hundreds of requests waiting, and another.
fn flood_and(victim: Client) -> Vec<Client> {
    vec![Client { arrivals: Arrivals::Backlog(400), ..Client::default() }, victim]
}

fn gap_after(steps: usize, tells_callers: bool) -> f64 {
    let victim = Client { arrivals: Arrivals::Backlog(40), ..Client::default() };
    let mut machine = Machine::new(1, limits(100), Costs::default(), flood_and(victim));
    let mut gaps = Gaps::default();
    if !tells_callers {
        machine.hide_callers();
    }
    for _ in 0..steps {
        machine.step();
        gaps.check(&machine);
    }
    gaps.worst
}

#[test]
fn order_of_arrival_would_break_the_bound() {
    assert!(gap_after(1500, true) <= 1.0);
    assert!(gap_after(1500, false) > 2.0, "the check could not fail");
}

#[test]
fn backlogged_principals_get_shares_by_weight() {
    for (weights, least) in [(vec![1; 8], 0.99), (vec![1, 2, 4], 0.99), (vec![3; 3], 0.99)] {
        let clients = weights.iter().map(|&weight| Client { weight, ..Client::default() });
        let mut machine = Machine::new(7, limits(100), Costs::default(), clients.collect());
        (0..4000).for_each(|_| machine.step());
        let shares: Vec<f64> =
            machine.records.iter().zip(&weights).map(|(r, w)| r.service as f64 / f64::from(*w)).collect();
        let jain = shares.iter().sum::<f64>().powi(2)
            / (shares.len() as f64 * shares.iter().map(|share| share * share).sum::<f64>());
        assert!(jain >= least, "Jain's index {jain} of {shares:?}");
    }
}

#[test]
fn bands_get_their_floors_and_none_starves() {
    let clients = fairness::BANDS.map(|band| Client { band, ..Client::default() });
    let mut machine = Machine::new(3, limits(100), Costs::default(), clients.to_vec());
    (0..20_000).for_each(|_| machine.step());
    let total: u64 = machine.records.iter().map(|record| record.service).sum();
    let shares: Vec<f64> = machine.records.iter().map(|r| r.service as f64 / total as f64).collect();
    let expected = [0.58, 0.30, 0.10, 0.02];
    let near = shares.iter().zip(expected).all(|(share, floor)| (share - floor).abs() < 0.02);
    assert!(near, "{shares:?} instead of {expected:?}");
    for record in &machine.records {
        let pause = record.admitted_at.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        assert!(pause < 35.0, "nobody of a band was admitted for {pause} s");
    }
}

fn arrival(id: u64, band: Band, pages: usize) -> SchedulerEvent {
    // One token less: all of it fits into so many pages.
    let prompt = vec![id as u32; pages * PAGE_TOKENS - 1];
    let caller = Caller { principal: format!("{band:?}").into(), band, ..Caller::default() };
    SchedulerEvent::Arrived {
        id: SequenceId(id),
        caller,
        prompt,
        score_prompt: false,
        chain: scope(0, 0).into(),
    }
}

/// A long stream leaves no room for a large prompt: others overtake it, and it is first when there is room.
#[test]
fn a_large_prompt_without_room_stops_nobody_more_urgent_and_is_admitted_first() {
    const LARGE: SequenceId = SequenceId(1);
    // Pages of the large prompt out of 100, of which the stream has 60; whether the others end; and how
    // many of one a second are admitted in 400 seconds. Others may always hold what pages it leaves over;
    // until it has waited for 330 seconds also 12 pages, or as many as 8 of them take.
    for (pages, others_end, expected) in
        [(45, true, 400), (80, true, 400), (99, true, 329), (80, false, 29 + 9), (99, false, 29 + 8)]
    {
        let mut scheduler = Scheduler::new(SchedulerLimits { running_sequences_max: 64, ..limits(100) });
        scheduler.step(Duration::ZERO, [arrival(0, Band::System, 60), arrival(1, Band::BestEffort, pages)]);
        let mut admitted = Vec::new();
        for second in 1..=400 {
            let ended = if others_end || second < 30 { admitted.last().copied() } else { None };
            let events = ended.map(|id| SchedulerEvent::Ended { id }).into_iter();
            let events = events.chain([arrival(1 + second, Band::Interactive, 1)]);
            admitted.extend(scheduler.step(Duration::from_secs(second), events).admitted);
        }
        assert_eq!(admitted.len(), expected, "{pages} pages, others end: {others_end}");
        let ended = admitted.iter().copied().chain([SequenceId(0)]).map(|id| SchedulerEvent::Ended { id });
        let actions = scheduler.step(Duration::from_secs(401), ended);
        assert_eq!(actions.admitted.first(), Some(&LARGE), "{pages} pages");
        assert_eq!(actions.preempted, [], "who waited so long stays");
    }
}

/// The 99th percentile of the last client's time to first token.
fn first_token_p99(costs: Costs, clients: &[Client], tells_callers: bool) -> f64 {
    let mut times = Vec::new();
    for seed in 0..20 {
        let limits = SchedulerLimits {
            running_sequences_max: 64,
            step_tokens_max: 512,
            mixed_prefill_tokens_max: 256,
            prefill_time_max: Duration::from_millis(200),
            mixed_prefill_time_max: Duration::from_millis(50),
            ..limits(2000)
        };
        let mut machine = Machine::new(seed, limits, costs, clients.to_vec());
        if !tells_callers {
            machine.hide_callers();
        }
        while machine.seconds < 60.0 {
            machine.step();
        }
        times.append(&mut machine.records.last_mut().expect("the victim").first_token_seconds);
    }
    times.sort_by(f64::total_cmp);
    times[times.len() * 99 / 100]
}

#[test]
fn a_flood_leaves_a_victim_its_fair_share() {
    let full = Costs::default();
    // A machine half as fast: the share of one among two.
    let half = full.times(2.0);
    for (prompt_tokens_max, rate) in [(200, 1.0), (600, 0.5), (1500, 0.2)] {
        let arrivals = Arrivals::Poisson(rate);
        let victim = Client { arrivals, prompt_tokens_max, ..Client::default() };
        let alone = first_token_p99(half, std::slice::from_ref(&victim), true);
        let flooded = first_token_p99(full, &flood_and(victim.clone()), true);
        println!(
            "{prompt_tokens_max}: p99 to first token {alone:.3} s at half speed, {flooded:.3} s in a flood"
        );
        assert!(flooded <= 1.1 * alone, "{flooded} s in a flood, {alone} s alone at half speed");
        if prompt_tokens_max == 200 {
            let in_line = first_token_p99(full, &flood_and(victim), false);
            assert!(in_line > 10.0 * alone, "{in_line} s in order of arrival: the check could not fail");
        }
    }
}

#[test]
fn chunks_deep_in_a_long_prompt_keep_to_their_time() {
    let limits = SchedulerLimits {
        step_tokens_max: 512,
        mixed_prefill_tokens_max: 256,
        mixed_prefill_time_max: Duration::from_millis(50),
        ..limits(2000)
    };
    // A stream that never ends, long prompts with a past, and short ones between them.
    let clients = [(16, 1_000_000), (9000, 1), (100, 4)].map(|(prompt_tokens_max, output_tokens_max)| {
        let arrivals = Arrivals::Backlog(1);
        Client { arrivals, prompt_tokens_max, output_tokens_max, ..Client::default() }
    });
    let costs = Costs { pair: 2e-7, ..Costs::default() };
    let mut steps = Vec::new();
    for seed in 0..10 {
        let mut machine = Machine::new(seed, limits, costs, clients.to_vec());
        (0..1000).for_each(|_| {
            let before = machine.seconds;
            machine.step();
            steps.push(machine.seconds - before);
        });
    }
    steps.sort_by(f64::total_cmp);
    let (p99, longest) = (steps[steps.len() * 99 / 100], steps[steps.len() - 1]);
    println!("beside long prompts a step takes {p99:.4} s at the 99th percentile, {longest:.4} s at most");
    // What prompts may take, and what the stream and the step itself do.
    assert!(p99 <= 1.1 * 0.050 + 0.005, "{p99} s");
}

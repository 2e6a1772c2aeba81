//! Does the simulation notice? Mistakes that a scheduler could make, made on purpose around a step of the
//! real one; each must be found within a few seeds, by the check that is there for it.

use super::super::*;
use super::clients::Machine;
use super::shares::{Gaps, crowd};
use super::{World, scope, simulate};
use crate::pages::{ChainHash, PrefixScope};

/// What goes wrong before and after a step.
#[derive(Clone, Copy)]
pub struct Fault {
    pub before: fn(&mut World),
    pub after: fn(&mut World, &mut Actions),
}

const NONE: Fault = Fault { before: |_| {}, after: |_, _| {} };

/// Seeds within which each is found.
const SEEDS: u64 = 30;

/// Runs seeds until one fails. Returns what it said.
fn first_failure(run: impl Fn(u64) + std::panic::RefUnwindSafe) -> Option<String> {
    (0..SEEDS).find_map(|seed| std::panic::catch_unwind(|| run(seed)).err()).map(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

fn check(name: &str, noticed_as: &[&str], run: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let said = first_failure(run).unwrap_or_else(|| panic!("{name}: not noticed within {SEEDS} seeds"));
    println!("{name}: {said}");
    assert!(noticed_as.iter().any(|text| said.contains(text)), "{name} is noticed only as: {said}");
}

#[test]
fn the_simulation_notices_what_goes_wrong() {
    let rows: [(&str, Fault, &[&str]); 11] = [
        ("a cancel leaks a page", Fault { before: leak_a_page, ..NONE }, &["owners of page"]),
        ("a page is freed twice", Fault { after: free_twice, ..NONE }, &["owners of page", "freed twice"]),
        ("a freed page is not zeroed", Fault { after: forget_to_zero, ..NONE }, &["not zero"]),
        (
            "tenants share what nobody made public",
            Fault { before: mix_up_tenants, ..NONE },
            &["another's page", "another's keys"],
        ),
        (
            "a stream is passed over beside prompts",
            Fault { before: pass_over_streams, after: let_streams_go_on },
            &["could decode and has no row"],
        ),
        (
            "prompts beside streams are not cut",
            Fault { before: do_not_cut_prompts, after: restore_limits },
            &["prompt rows beside streams"],
        ),
        (
            "nobody is admitted while pages are read",
            Fault { before: admit_nobody_during_reads, after: restore_limits },
            &["could be admitted"],
        ),
        (
            "a stream gives way to a prompt",
            Fault { before: take_streams_for_prompts, after: tell_prompts_again },
            &["gave way"],
        ),
        ("a client that reads again is not noticed", Fault { before: lose_resumed, ..NONE }, &["forgotten"]),
        ("a cancel is not noticed", Fault { before: lose_ended, ..NONE }, &["forgotten"]),
        ("a read never ends", Fault { before: lose_restored, ..NONE }, &["reads that have ended"]),
    ];
    for (name, fault, noticed_as) in rows {
        check(name, noticed_as, |seed| drop(simulate(seed, Some(fault))));
    }
}

fn leak_a_page(world: &mut World) {
    let running = &mut world.scheduler.running;
    for event in &world.events {
        if let SchedulerEvent::Ended { id } = event
            && let Some(sequence) = running.get_mut(id)
            && sequence.pages.len() > sequence.sealed
        {
            sequence.pages.pop();
        }
    }
}

fn free_twice(world: &mut World, _: &mut Actions) {
    let page = world.scheduler.running.values().find_map(|sequence| sequence.pages.last().copied());
    world.scheduler.pool.release(&mut page.into_iter().collect());
}

fn forget_to_zero(_: &mut World, actions: &mut Actions) {
    actions.zero.pop();
}

fn mix_up_tenants(world: &mut World) {
    for event in &mut world.events {
        if let SchedulerEvent::Arrived { chain, .. } = event {
            *chain = PrefixScope { root: ChainHash([9; 32]), ..scope(0, 0) }.into();
        }
    }
}

/// They seem to be paused; as nobody is in need of pages, nobody takes theirs.
fn pass_over_streams(world: &mut World) {
    let (now, has_pages) = (world.now, world.scheduler.pool.free() > world.limits.pages / 2);
    let sequences = &mut world.scheduler.running;
    if has_pages
        && world.scheduler.waiting.is_empty()
        && sequences.values().any(|sequence| sequence.is_runnable() && sequence.remaining() > 1)
    {
        let streams = sequences.values_mut().filter(|sequence| sequence.is_started());
        streams.for_each(|sequence| _ = sequence.paused_since.get_or_insert(now));
    }
}

fn let_streams_go_on(world: &mut World, _: &mut Actions) {
    for (id, client) in &world.clients {
        if !client.paused {
            world.scheduler.get_mut(*id).expect("nobody is lost").paused_since = None;
            world.scheduler.wait(*id);
        }
    }
}

fn do_not_cut_prompts(world: &mut World) {
    world.scheduler.limits.mixed_prefill_tokens_max = world.limits.step_tokens_max;
}

fn admit_nobody_during_reads(world: &mut World) {
    if !world.reads.is_empty() {
        world.scheduler.limits.running_sequences_max = 0;
    }
}

fn restore_limits(world: &mut World, _: &mut Actions) {
    world.scheduler.limits = world.limits;
}

/// What it has answered counts as prompt.
fn take_streams_for_prompts(world: &mut World) {
    let sequences = world.scheduler.running.values_mut().filter(|sequence| sequence.score_from.is_none());
    sequences.for_each(|sequence| sequence.prompt_tokens = sequence.tokens.len());
}

fn tell_prompts_again(world: &mut World, _: &mut Actions) {
    for (&id, client) in &world.clients {
        let sequence = world.scheduler.get_mut(id).expect("nobody is lost");
        sequence.prompt_tokens = client.prompt_tokens;
        sequence.prompt_reached = sequence.prompt_reached.min(client.prompt_tokens);
    }
}

/// Loses the events of a kind.
fn lose(world: &mut World, is_lost: fn(&SchedulerEvent) -> bool) {
    world.events.retain(|event| !is_lost(event));
}

fn lose_resumed(world: &mut World) {
    lose(world, |event| matches!(event, SchedulerEvent::Resumed { .. }));
}

fn lose_ended(world: &mut World) {
    lose(world, |event| matches!(event, SchedulerEvent::Ended { .. }));
}

fn lose_restored(world: &mut World) {
    lose(world, |event| matches!(event, SchedulerEvent::Restored { .. }));
}

#[test]
fn the_bound_on_shares_notices_service_that_is_not_counted() {
    check("what the first principal gets is not charged", &["times what is allowed"], |seed| {
        let (mut machine, mut gaps) = (crowd(seed), Gaps::default());
        for _ in 0..400 {
            machine.step();
            refund_outputs(&mut machine);
            gaps.check(&machine);
        }
        assert!(gaps.worst <= 1.0, "a gap of {:.2} times what is allowed", gaps.worst);
    });
}

/// Gives the first principal back what its tokens cost.
fn refund_outputs(machine: &mut Machine) {
    let scheduler = machine.scheduler();
    let running = scheduler.running.values().filter(|sequence| &*sequence.caller.principal == "0");
    // Its next token is being chosen.
    let charged: Vec<AccountId> =
        running.filter(|sequence| sequence.remaining() == 0).map(|sequence| sequence.account).collect();
    charged
        .into_iter()
        .for_each(|account| scheduler.fairness.refund(account, fairness::OUTPUT_COST as usize));
}

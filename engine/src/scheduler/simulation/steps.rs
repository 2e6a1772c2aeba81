//! Single steps by hand: who gets which rows, and what a cancel, a pause and full memory do.

use super::super::*;
use super::{limits, rows_of, scope};

fn arrival(id: u64, prompt_tokens: usize) -> SchedulerEvent {
    // Prompts that have nothing in common.
    let prompt = (0..prompt_tokens as u32).map(|i| id as u32 * 100_000 + i).collect();
    let (id, caller) = (SequenceId(id), Caller::default());
    SchedulerEvent::Arrived { id, caller, prompt, score_prompt: false, chain: scope(0, 0).into() }
}

fn sample_all(actions: &Actions) -> Vec<SchedulerEvent> {
    actions.outputs.iter().map(|output| SchedulerEvent::Sampled { id: output.id, token: 7 }).collect()
}

#[test]
fn a_second_prompt_starts_at_once_beside_a_long_one() {
    let mut scheduler = Scheduler::new(limits(1000));
    scheduler.step(Duration::ZERO, [arrival(0, 8000)]);
    let actions = scheduler.step(Duration::ZERO, [arrival(1, 100)]);
    assert_eq!(rows_of(&actions, 1), 100, "the newcomer's whole prompt");
    assert_eq!(rows_of(&actions, 0), 156, "the rest goes to the long one");
    assert_eq!(actions.outputs, [Output { id: SequenceId(1), kind: OutputKind::Next }]);
}

#[test]
fn long_prompts_share_and_the_oldest_keeps_half() {
    let mut scheduler = Scheduler::new(limits(1000));
    scheduler.step(Duration::ZERO, [arrival(0, 8000)]);
    scheduler.step(Duration::ZERO, [arrival(1, 8000)]);
    let actions = scheduler.step(Duration::ZERO, [arrival(2, 8000)]);
    let shares = [0, 1, 2].map(|id| rows_of(&actions, id));
    assert_eq!(shares, [128, 0, 128], "the newcomer before the one that had a turn");
}

#[test]
fn prompts_beside_a_stream_are_cut_to_the_mixed_budget() {
    let mut scheduler = Scheduler::new(limits(1000));
    scheduler.step(Duration::ZERO, [arrival(0, 10)]);
    let sampled = SchedulerEvent::Sampled { id: SequenceId(0), token: 5 };
    let actions = scheduler.step(Duration::ZERO, [sampled, arrival(1, 8000)]);
    assert_eq!([0, 1].map(|id| rows_of(&actions, id)), [1, 64]);
}

#[test]
fn chunks_shrink_to_the_time_a_step_may_take() {
    let limits = SchedulerLimits { prefill_time_max: Duration::from_millis(200), ..limits(1000) };
    let mut scheduler = Scheduler::new(limits);
    let mut rows = scheduler.step(Duration::ZERO, [arrival(0, 8000)]).batch.tokens.len();
    for _ in 0..20 {
        let ran = SchedulerEvent::Ran { rows, took: Duration::from_millis(4) * rows as u32 };
        rows = scheduler.step(Duration::ZERO, [ran]).batch.tokens.len();
    }
    assert!((49..=52).contains(&rows), "{rows} rows of 4 ms in 200 ms");
}

#[test]
fn a_preempted_sequence_keeps_its_rank_and_computes_its_own_tokens_again() {
    let mut scheduler = Scheduler::new(limits(5));
    let mut actions = scheduler.step(Duration::ZERO, [arrival(0, 60), arrival(1, 33)]);
    let mut tokens = [60, 33];
    while actions.preempted.is_empty() {
        let events = sample_all(&actions);
        actions.outputs.iter().for_each(|output| tokens[output.id.0 as usize] += 1);
        assert!(tokens[0] < 100, "five pages cannot hold them both");
        actions = scheduler.step(Duration::ZERO, events);
    }
    assert_eq!(actions.preempted, [SequenceId(1)], "the later one gives way");
    assert_eq!(tokens, [97, 65], "only when nothing is left");
    let later = scheduler.step(Duration::ZERO, [arrival(2, 5)]);
    assert!(later.admitted.is_empty(), "nobody overtakes the preempted one");
    let after = scheduler.step(Duration::ZERO, [SchedulerEvent::Ended { id: SequenceId(0) }]);
    assert_eq!(rows_of(&after, 1), 65, "prompt and generated tokens");
    assert_eq!(after.admitted, [SequenceId(2)], "and it was admitted before");
}

#[test]
fn a_cancel_frees_pages_in_the_same_step() {
    let mut scheduler = Scheduler::new(limits(4));
    scheduler.step(Duration::ZERO, [arrival(0, 128)]);
    let waiting = scheduler.step(Duration::ZERO, [arrival(1, 128)]);
    assert!(waiting.admitted.is_empty());
    let actions = scheduler.step(Duration::ZERO, [SchedulerEvent::Ended { id: SequenceId(0) }]);
    assert_eq!(actions.admitted, [SequenceId(1)]);
    assert_eq!(actions.zero.len(), 4, "all of its pages were another's");
}

#[test]
fn a_paused_sequence_is_skipped_then_reported() {
    let mut scheduler = Scheduler::new(limits(4));
    scheduler.step(Duration::ZERO, [arrival(0, 10)]);
    let id = SequenceId(0);
    let actions = scheduler
        .step(Duration::ZERO, [SchedulerEvent::Sampled { id, token: 1 }, SchedulerEvent::Paused { id }]);
    assert!(actions.is_idle());
    assert_eq!(scheduler.next_deadline(), Some(Duration::from_secs(1)));
    assert!(scheduler.step(Duration::from_millis(999), []).is_idle());
    assert_eq!(scheduler.step(Duration::from_secs(1), []).stalled, [id]);
    let actions = scheduler.step(Duration::from_secs(1), [SchedulerEvent::Resumed { id }]);
    assert_eq!(rows_of(&actions, 0), 1);
}

#[test]
fn a_client_that_does_not_read_gives_up_its_pages_to_one_that_waits() {
    let mut scheduler = Scheduler::new(limits(4));
    scheduler.step(Duration::ZERO, [arrival(0, 100)]);
    let id = SequenceId(0);
    let paused = [SchedulerEvent::Sampled { id, token: 1 }, SchedulerEvent::Paused { id }, arrival(1, 100)];
    let actions = scheduler.step(Duration::ZERO, paused);
    assert_eq!(
        (actions.preempted.as_slice(), actions.admitted.as_slice()),
        (&[id][..], &[SequenceId(1)][..])
    );
}

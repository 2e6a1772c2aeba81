//! What must hold of every step, whoever the clients are.

use super::super::*;

/// A long prompt delays a stream's next token by no more than one chunk: every running stream that could go
/// on has its row in the step, and prompts beside streams keep to their part of it.
pub fn check_streams(scheduler: &Scheduler, actions: &Actions) {
    for (&id, sequence) in &scheduler.running {
        let is_left_out =
            sequence.is_runnable() && sequence.remaining() == 1 && !actions.sequences.contains(&id);
        assert!(!is_left_out || lacks_pages(scheduler, id), "{id:?} could decode and has no row in the step");
    }
    let (rows, decodes) = (actions.batch.tokens.len(), decodes(scheduler, actions));
    let prompts_max = scheduler.limits.mixed_prefill_tokens_max;
    assert!(decodes == 0 || rows - decodes <= prompts_max, "{} prompt rows beside streams", rows - decodes);
}

/// Rows of sequences that go on from their last known token, and of guesses after it.
fn decodes(scheduler: &Scheduler, actions: &Actions) -> usize {
    let is_decode = |(rows, id): &(&kernels::PagedRows, &SequenceId)| {
        rows.past + 1 == scheduler.running[*id].tokens.len()
    };
    let decodes = actions.batch.sequences.iter().zip(&actions.sequences).filter(is_decode);
    decodes.map(|(rows, _)| rows.rows).sum()
}

/// Whether a running sequence has to wait for stronger ones: they have all pages.
fn lacks_pages(scheduler: &Scheduler, id: SequenceId) -> bool {
    let sequence = &scheduler.running[&id];
    sequence.pages_lacking(sequence.computed + 1) > 0
        && scheduler.pool.free() == 0
        && scheduler.weakest(|_| true) == Some(id)
}

/// A step computes nothing only when nobody could run: each running sequence waits for a page that is being
/// read, or for pages of one that does; and there is no room for whoever would be admitted next.
pub fn check_idle(scheduler: &mut Scheduler, actions: &Actions) {
    if !actions.batch.tokens.is_empty() {
        return;
    }
    let runnable = scheduler.running.iter().filter(|(_, sequence)| sequence.is_runnable());
    for id in runnable.map(|(&id, _)| id).collect::<Vec<SequenceId>>() {
        let excused = awaits_page(scheduler, id) || lacks_pages(scheduler, id);
        assert!(excused, "an idle step while {id:?} could run");
    }
    let contenders = scheduler.fairness.contenders(scheduler.now);
    let waits = scheduler.waiting.values().any(Sequence::is_runnable);
    assert!(!waits || !contenders.candidates.is_empty(), "an idle step while nobody who waits is in line");
    // Who should have been admitted long ago bars others.
    let count = if contenders.overdue.is_some() { 1 } else { contenders.candidates.len() };
    for &id in &contenders.candidates[..count] {
        assert!(!has_ample_room(scheduler, id), "an idle step while {id:?} could be admitted");
    }
}

fn awaits_page(scheduler: &mut Scheduler, id: SequenceId) -> bool {
    let sequence = scheduler.running.get_mut(&id).expect("it runs");
    let hash = sequence.next_page().and_then(|index| sequence.shared_page(index));
    hash.is_some_and(|hash| scheduler.disk.is_awaited(&hash, scheduler.now))
}

/// Whether there is a place, and pages, for a waiting sequence besides all that is ever kept for others.
fn has_ample_room(scheduler: &Scheduler, id: SequenceId) -> bool {
    let SchedulerLimits { running_sequences_max, pages, .. } = scheduler.limits;
    let running = scheduler.running.len();
    let promised = scheduler.running.values().map(Sequence::pages_wanted).sum::<usize>();
    let owned = scheduler.running.values().map(|sequence| sequence.pages.len()).sum::<usize>();
    let wanted = scheduler.waiting[&id].pages_wanted() + promised - owned;
    let has_place = running == 0 || running + running_sequences_max.div_ceil(8) < running_sequences_max;
    let kept = if running == 0 { 0 } else { pages.div_ceil(8) };
    has_place && wanted - 1 + kept <= scheduler.pool.free()
}

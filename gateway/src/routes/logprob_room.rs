//! Memory for log-probabilities: a prompt's are all made before any is sent, and a reply that is not streamed
//! holds its answers' as well. How many is known before a request runs, and so is whether there is room.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{ApiError, ApiResult};

/// Of one alternative of one token: its bytes and number, and its entry in the reply.
const ENTRY_BYTES: usize = 160;

/// Shared by all requests.
pub struct LogprobRoom {
    /// In entries.
    free: Arc<Semaphore>,
    entries_max: u32,
}

impl LogprobRoom {
    pub fn new(mib: usize) -> LogprobRoom {
        let entries = mib.saturating_mul(1 << 20) / ENTRY_BYTES;
        let entries_max = u32::try_from(entries.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        LogprobRoom { free: Arc::new(Semaphore::new(entries_max as usize)), entries_max }
    }

    /// Room for so many entries, given back when dropped.
    ///
    /// # Errors
    /// 400 for more than there ever is, 503 while others have it.
    pub fn take(&self, entries: usize) -> ApiResult<OwnedSemaphorePermit> {
        let wanted = u32::try_from(entries).unwrap_or(u32::MAX);
        if wanted > self.entries_max {
            let message = format!(
                "{entries} log-probabilities would be held at a time, and this server holds {} at most; ask for \
                 fewer alternatives or choices, for a shorter prompt or fewer tokens, or stream the answer",
                self.entries_max
            );
            return Err(ApiError::invalid("logprobs", message));
        }
        Arc::clone(&self.free).try_acquire_many_owned(wanted).map_err(|_| {
            let message =
                "other requests for log-probabilities take all the memory there is for them; try again";
            ApiError::unavailable(message, "insufficient_memory")
        })
    }
}

/// Log-probabilities that these requests hold at a time.
pub fn entries(requests: &[engine::Request], context_tokens: usize, streamed: bool) -> usize {
    let of_one = |request: &engine::Request| {
        let prompt = request.prompt.len().min(context_tokens);
        let answer = if streamed { 0 } else { request.max_new_tokens.min(context_tokens - prompt) };
        let entries = |tokens: usize, top: Option<usize>| top.map_or(0, |top| tokens.saturating_mul(1 + top));
        entries(prompt, request.prompt_logprobs).saturating_add(entries(answer, request.logprobs))
    };
    requests.iter().map(of_one).fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back_and_there_is_never_more() {
        let room = LogprobRoom::new(1);
        let all = (1 << 20) / ENTRY_BYTES;
        assert_eq!(room.take(all + 1).unwrap_err().status, 400, "it would never fit");
        let most = room.take(all - 10).unwrap();
        assert_eq!(room.take(11).unwrap_err().status, 503, "others have it");
        let rest = room.take(10).unwrap();
        drop((most, rest));
        assert!(room.take(all).is_ok());
    }
}

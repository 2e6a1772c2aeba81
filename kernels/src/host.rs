//! Requests to the operating system: who this process is, and advice, whose refusal changes nothing but
//! speed or memory use.

/// Lets every other thread go first: the calling thread gets about a tenth of a core that others want
/// too, and a whole one that nobody wants.
pub fn yield_to_others() {
    // The system's scale ends at 19, which would starve the thread for as long as others are busy.
    const NICENESS: libc::c_int = 10;
    // SAFETY: plain numbers in and out; 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
}

/// The user this process acts as, as the owner of its files is numbered.
#[cfg(unix)]
pub fn user_id() -> u32 {
    // SAFETY: geteuid only returns a number.
    unsafe { libc::geteuid() }
}

/// Has a file opened only under its own name: not through a link at the end of its path, and without waiting
/// where it is a pipe.
pub fn refuse_links(options: &mut std::fs::OpenOptions) {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    #[cfg(not(unix))]
    let _ = options;
}

/// Lets the allocator take every buffer of some size from the system and give it back when it is freed,
/// for processes whose models come and go. Else glibc learns from the first large buffer that is freed to
/// keep ones up to 32 MiB for itself, of which [`return_freed_memory`] does not reach all.
pub fn return_buffers_when_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // glibc's own first value, which setting it makes the last one.
        const BUFFER_BYTES_MIN: libc::c_int = 128 << 10;
        // SAFETY: plain numbers; the allocator takes its own lock.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, BUFFER_BYTES_MIN) };
    }
}

/// Gives memory that was freed back to the system now; the allocator would keep some of it at hand.
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: glibc's allocator takes its own locks; 0 keeps no slack.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Overwrites values with zeros; whole pages of the system's among them it takes back, to be cleared when
/// they are touched again.
pub(crate) fn zero_and_release(values: &mut [u32]) {
    #[cfg(target_os = "linux")]
    {
        // The largest any of these systems has.
        const PAGE_WORDS: usize = (64 << 10) / size_of::<u32>();
        let before = values.as_ptr().align_offset(PAGE_WORDS * size_of::<u32>()).min(values.len());
        let pages = (values.len() - before) / PAGE_WORDS * PAGE_WORDS;
        let range = &mut values[before..before + pages];
        // SAFETY: the range is this borrow's alone, of plain integers, and its memory the allocator's, which
        // is private and of no file: it reads as zeros from then on.
        let refused = pages > 0
            && unsafe { libc::madvise(range.as_mut_ptr().cast(), size_of_val(range), libc::MADV_DONTNEED) }
                != 0;
        if !refused {
            values[..before].fill(0);
            return values[before + pages..].fill(0);
        }
    }
    values.fill(0);
}

/// An empty vector for `capacity` values, in pages of 2 MiB where the system has them: what streams through
/// weights then meets a page's end 512 times less often.
pub fn vec_in_huge_pages<T>(capacity: usize) -> Vec<T> {
    let mut memory = Vec::<T>::with_capacity(capacity);
    ask_for_huge_pages(&mut memory);
    memory
}

/// Asks the system for pages of 2 MiB under a vector's memory, as far as nothing is there yet: the first
/// touch of each then clears 2 MiB at once, instead of 4 KiB 512 times.
pub fn ask_for_huge_pages<T>(memory: &mut Vec<T>) {
    #[cfg(target_os = "linux")]
    {
        const HUGE_PAGE: usize = 2 << 20;
        let start = memory.as_ptr() as usize;
        let aligned = start.next_multiple_of(HUGE_PAGE);
        let length = (start + size_of::<T>() * memory.capacity()).saturating_sub(aligned);
        if length >= HUGE_PAGE {
            // SAFETY: the range lies within this vector's own memory, and the advice does not change what
            // it holds.
            unsafe { libc::madvise(aligned as *mut libc::c_void, length, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

//! How much memory a call takes at its peak.

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Runs `work`, and fails if at any moment the process held more than `limit` bytes beyond those held before.
/// Allocations of C code (zstd) are not counted.
///
/// The count is one for the whole process: no large allocator may run beside it. The test harness is allowed for.
pub(crate) fn within<T>(limit: usize, what: &str, work: impl FnOnce() -> T) -> T {
    let limit = limit + BESIDE;
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let result = work();
    let taken = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(taken <= limit, "{what} took {taken} bytes of memory at its peak, {limit} are allowed");
    result
}

/// Bytes that other threads may allocate meanwhile.
const BESIDE: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_freed_before_the_end_counts() {
        let peak = |limit| std::panic::catch_unwind(|| within(limit, "a vector", || drop(vec![1_u8; 10 << 20])));
        assert!(peak(64 << 20).is_ok());
        assert!(peak(9 << 20).is_err());
    }
}

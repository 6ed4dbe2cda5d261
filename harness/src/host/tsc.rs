//! Measures the frequency of this machine's time stamp counter (TSC). Under TCG, the guest reads
//! the same counter (QEMU 10.0, `cpu_get_host_ticks()`).

use std::time::{Duration, Instant};

/// Duration of a measurement. It is long enough that the clock's resolution and a short preemption
/// do not change the first digits.
const LOOK: Duration = Duration::from_millis(20);
/// Rounding step. With it, two measurements on one machine give the same frequency, and so the same
/// kernel command line for a guest.
const STEP_HZ: u64 = 100_000_000;

/// The counter's frequency in Hz, rounded to 100 MHz. `None` if the machine has no counter, or if
/// it does not count.
pub fn tsc_hz() -> Option<u64> {
    let (start, before) = (Instant::now(), read()?);
    std::thread::sleep(LOOK);
    let (elapsed, after) = (start.elapsed(), read()?);
    rounded(after.checked_sub(before)?, elapsed)
}

fn rounded(counts: u64, elapsed: Duration) -> Option<u64> {
    let hz = u128::from(counts) * 1_000_000_000 / elapsed.as_nanos().max(1);
    let steps = (u64::try_from(hz).ok()? + STEP_HZ / 2) / STEP_HZ;
    (steps > 0).then_some(steps * STEP_HZ)
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "there is no other way to read the counter")]
#[expect(clippy::unnecessary_wraps, reason = "other processors have none")]
fn read() -> Option<u64> {
    // SAFETY: RDTSC is an instruction of every x86-64, and touches no memory.
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn read() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_digits_are_kept() {
        let second = Duration::from_secs(1);
        assert_eq!(rounded(2_596_110_000, second), Some(2_600_000_000));
        assert_eq!(rounded(54_000_000, LOOK), Some(2_700_000_000));
        assert_eq!(rounded(40_000_000, second), None);
        assert_eq!(rounded(0, Duration::ZERO), None);
    }
}

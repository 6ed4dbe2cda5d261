//! The output of a run for readers and programs. All forms are made from the same record.

pub mod bisect;
pub mod build;
pub mod cases;
pub mod fleet;
pub mod github;
pub mod history;
pub mod junit;
pub mod ktap;
pub mod mail;
pub mod page;
mod progress;
pub mod prove;
pub mod replay;
pub mod scan;
pub mod series;
pub mod shrink;
pub mod stream;
pub mod terminal;
pub mod watch;

pub use progress::Progress;

use crate::record::HostRecord;

/// The line about the machine, on every screen.
fn host_line(host: &HostRecord) -> String {
    format!("host      QEMU {}, {}, {} cores", host.qemu, host.accelerator_reason, host.cores)
}

/// Formats seconds as `8 s` or `2 m 51 s`.
pub fn duration(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded and not negative")]
    let whole = seconds.max(0.0).round() as u64;
    if whole < 60 { format!("{whole} s") } else { format!("{} m {} s", whole / 60, whole % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration(8.4), "8 s");
        assert_eq!(duration(170.9), "2 m 51 s");
    }
}

//! What people and machines read of a run: all of it made from the same record.

pub mod bisect;
pub mod build;
pub mod cases;
pub mod drawing;
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

/// The screens' line about the machine.
fn host_line(host: &HostRecord) -> String {
    format!("host      QEMU {}, {}, {} cores", host.qemu, host.accelerator_reason, host.cores)
}

/// As our files write it: a variant in kebab case, such as `accounting-mismatch`.
pub(crate) fn word(variant: &impl serde::Serialize) -> String {
    serde_json::to_value(variant).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Seconds as people say them: `8 s`, `2 m 51 s`.
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

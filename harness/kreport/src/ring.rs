//! Draws a lock cycle as a small ring, for terminals.

use std::fmt::Write as _;

use super::{Locks, Report};

/// Draws the cycle of a lockdep report, one lock a line; `None` if the report has no cycle.
///
/// Read it downwards: each lock was taken while the one above it was held, and the first while the
/// last was held.
pub fn draw_ring(report: &Report) -> Option<String> {
    let locks: &Locks = report.locks.as_ref()?;
    let cycle = &locks.cycle;
    if cycle.len() < 2 {
        return None;
    }
    let names: Vec<String> = cycle.iter().map(super::Lock::name).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for (index, (lock, name)) in cycle.iter().zip(&names).enumerate() {
        let (first, last) = (index == 0, index + 1 == cycle.len());
        let edge = match (first, last) {
            (true, _) => "┌─> ",
            (_, true) => "└── ",
            _ => "│   ",
        };
        let under = &names[(index + cycle.len() - 1) % cycle.len()];
        let at = lock.at.as_deref().map_or(String::new(), |at| format!("  taken in {at}"));
        let role = match (first, last) {
            (true, _) => "  (wanted now)",
            (_, true) => "  (held now)",
            _ => "",
        };
        let _ = writeln!(out, "{edge}{name:width$}{at}, under {under}{role}");
        if !last {
            let _ = writeln!(out, "│     v");
        }
    }
    Some(out)
}

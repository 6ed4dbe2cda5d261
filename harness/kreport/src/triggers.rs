//! Finds lines that can begin a report, at memory speed.

use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, packed};

use super::patterns;

/// Finds [`patterns::TRIGGERS`]: with SIMD if the processor has it, which is three times as fast as
/// an automaton.
#[derive(Debug)]
pub(super) enum Triggers {
    Packed(packed::Searcher),
    Automaton(AhoCorasick),
}

impl Triggers {
    /// The offset of the first trigger.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<usize> {
        match self {
            Triggers::Packed(searcher) => searcher.find(bytes).map(|found| found.start()),
            Triggers::Automaton(automaton) => automaton.find(bytes).map(|found| found.start()),
        }
    }

    /// The search for [`patterns::TRIGGERS`], which is built once.
    pub(super) fn get() -> &'static Self {
        static TRIGGERS: OnceLock<Triggers> = OnceLock::new();
        TRIGGERS.get_or_init(|| {
            let mut builder = packed::Config::new().match_kind(packed::MatchKind::LeftmostFirst).builder();
            if let Some(searcher) = builder.extend(patterns::TRIGGERS).build() {
                return Triggers::Packed(searcher);
            }
            // Cannot fail: the patterns are few and constant.
            let automaton = AhoCorasick::new(patterns::TRIGGERS);
            Triggers::Automaton(automaton.unwrap_or_else(|error| unreachable!("constant patterns: {error}")))
        })
    }
}

//! gcc's counters of an object file, as the kernel prints them: `convert_to_gcda()` in `kernel/gcov/gcc_4_7.c`.
//!
//! They come from a guest, so nothing of them reaches gcov(1) but what was understood here and is written anew.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// gcov-io.h of gcc.
const MAGIC: u32 = 0x6763_6461;
const TAG_FUNCTION: u32 = 0x0100_0000;
/// The first kind of counters, arcs; one kind further each `1 << 17`.
const TAG_COUNTERS: u32 = 0x01a1_0000;
const KINDS: u32 = 9;

/// From this gcc on lengths are in bytes, and the file has a checksum of its own.
const BYTES_SINCE: u32 = 12;

/// Why bytes are no counters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the guest's counters make no sense: {0}")]
pub struct Odd(&'static str);

/// Counters of one object file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    version: u32,
    stamp: u32,
    checksum: Option<u32>,
    functions: Vec<FunctionCounters>,
}

/// Of one function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FunctionCounters {
    /// Its number, and checksums of its place and of its flow graph.
    about: [u32; 3],
    /// By kind; of the kernel's options there are only arcs.
    counters: Vec<(u32, Vec<u64>)>,
}

/// The next 32 bits.
fn word(bytes: &mut &[u8]) -> Option<u32> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*first))
}

impl Counters {
    /// Reads a `.gcda` file of an x86 guest.
    pub fn parse(mut bytes: &[u8]) -> Result<Self, Odd> {
        let rest = &mut bytes;
        let mut next = || word(rest).ok_or(Odd("they are cut short"));
        if next()? != MAGIC {
            return Err(Odd("no magic"));
        }
        let (version, stamp) = (next()?, next()?);
        let in_bytes = major(version).ok_or(Odd("no version of gcc"))? >= BYTES_SINCE;
        let checksum = if in_bytes { Some(next()?) } else { None };
        let words = |length: u32| if in_bytes { length / 4 } else { length };
        let mut functions: Vec<FunctionCounters> = Vec::new();
        while !bytes.is_empty() {
            let rest = &mut bytes;
            let mut next = || word(rest).ok_or(Odd("they are cut short"));
            let (tag, length) = (next()?, words(next()?));
            if tag == TAG_FUNCTION {
                if length != 3 {
                    return Err(Odd("a function of another length"));
                }
                let about = [next()?, next()?, next()?];
                functions.push(FunctionCounters { about, counters: Vec::new() });
                continue;
            }
            let kind = tag.checked_sub(TAG_COUNTERS).filter(|above| above % (1 << 17) == 0);
            let Some(kind) = kind.map(|above| above >> 17).filter(|kind| *kind < KINDS) else {
                return Err(Odd("a record of another kind"));
            };
            let values = (0..length / 2).map(|_| Ok(u64::from(next()?) | u64::from(next()?) << 32));
            let values = values.collect::<Result<_, _>>()?;
            functions.last_mut().ok_or(Odd("counters of no function"))?.counters.push((kind, values));
        }
        Ok(Self { version, stamp, checksum, functions })
    }

    /// The file again.
    pub fn to_gcda(&self) -> Vec<u8> {
        let unit = if self.checksum.is_some() { 4 } else { 1 };
        let mut words = vec![MAGIC, self.version, self.stamp];
        words.extend(self.checksum);
        for FunctionCounters { about, counters } in &self.functions {
            words.extend([TAG_FUNCTION, 3 * unit]);
            words.extend(about);
            for (kind, values) in counters {
                let length = u32::try_from(values.len() * 2).unwrap_or(u32::MAX) * unit;
                words.extend([TAG_COUNTERS + (kind << 17), length]);
                #[expect(clippy::cast_possible_truncation, reason = "one half, then the other")]
                words.extend(values.iter().flat_map(|value| [*value as u32, (*value >> 32) as u32]));
            }
        }
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    }

    /// Whether both count the same code.
    fn is_like(&self, other: &Self) -> bool {
        let shape = |of: &FunctionCounters| {
            let kinds: Vec<_> = of.counters.iter().map(|(kind, all)| (*kind, all.len())).collect();
            (of.about, kinds)
        };
        (self.version, self.stamp) == (other.version, other.stamp)
            && self.functions.iter().map(shape).eq(other.functions.iter().map(shape))
    }

    fn values(&self) -> impl Iterator<Item = &u64> {
        self.functions.iter().flat_map(|f| &f.counters).flat_map(|(_, all)| all)
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        self.functions.iter_mut().flat_map(|f| &mut f.counters).flat_map(|(_, all)| all)
    }
}

/// gcc's major version: `B22*` is 12.2 (gcov-iov.cc).
fn major(version: u32) -> Option<u32> {
    let [tens, ones, ..] = version.to_be_bytes();
    let tens = u32::from(tens.checked_sub(b'A').filter(|tens| *tens < 10)?);
    let ones = u32::from(ones.checked_sub(b'0').filter(|ones| *ones < 10)?);
    Some(tens * 10 + ones)
}

/// Counters of several object files, by the name of their source, such as `mm/slub.c`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Objects(pub BTreeMap<String, Counters>);

impl Objects {
    /// Whether nothing was counted.
    pub fn is_zero(&self) -> bool {
        self.0.values().flat_map(Counters::values).all(|value| *value == 0)
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Self) -> Result<Self, Odd> {
        let mut since = self.clone();
        for (name, counters) in &mut since.0 {
            let Some(before) = earlier.0.get(name) else { continue };
            if !before.is_like(counters) {
                return Err(Odd("they changed their shape"));
            }
            // A guest may say anything; the kernel's own counters never go back.
            counters
                .values_mut()
                .zip(before.values())
                .for_each(|(now, then)| *now = now.saturating_sub(*then));
        }
        Ok(since)
    }

    /// Adds what was counted elsewhere, by the same kernel; of another's code nothing is added.
    pub fn add(&mut self, other: &Self) {
        for (name, counters) in &other.0 {
            match self.0.get_mut(name) {
                None => drop(self.0.insert(name.clone(), counters.clone())),
                Some(known) if known.is_like(counters) => {
                    known.values_mut().zip(counters.values()).for_each(|(a, b)| *a = a.saturating_add(*b));
                }
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counters(version: [u8; 4], values: &[u64]) -> Counters {
        let version = u32::from_be_bytes(version);
        let checksum = (major(version).unwrap() >= BYTES_SINCE).then_some(7);
        let function =
            |ident| FunctionCounters { about: [ident, 1, 2], counters: vec![(0, values.to_vec())] };
        Counters { version, stamp: 5, checksum, functions: vec![function(1), function(2)] }
    }

    fn objects(values: &[u64]) -> Objects {
        Objects([("mm/slub.c".to_owned(), counters(*b"B22*", values))].into())
    }

    #[test]
    fn a_file_is_written_as_it_was_read() {
        for version in [*b"B22*", *b"A93*", *b"B40*"] {
            let all = counters(version, &[0, 1, u64::MAX, 1 << 40]);
            let bytes = all.to_gcda();
            assert_eq!(Counters::parse(&bytes).unwrap(), all);
            for cut in 0..bytes.len() {
                // Cut between two records it is a shorter file; anywhere else it is none.
                if let Ok(shorter) = Counters::parse(&bytes[..cut]) {
                    assert_eq!(shorter.to_gcda(), &bytes[..cut]);
                }
            }
        }
    }

    #[test]
    fn what_is_no_file_of_counters_is_refused() {
        let good = counters(*b"B22*", &[1]).to_gcda();
        let with = |at: usize, word: u32| {
            let mut bytes = good.clone();
            bytes[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
            Counters::parse(&bytes).unwrap_err().to_string()
        };
        assert!(with(0, 0).ends_with("no magic"));
        assert!(with(1, 0).ends_with("no version of gcc"));
        assert!(with(4, 0xa100_0000).ends_with("a record of another kind"));
        assert!(with(4, TAG_COUNTERS).ends_with("counters of no function"));
        assert!(with(5, 8).ends_with("a function of another length"));
        assert!(with(10, 1 << 30).ends_with("they are cut short"));
    }

    #[test]
    fn counts_are_told_apart_and_added() {
        let (early, late) = (objects(&[1, 5]), objects(&[4, 3]));
        let since = late.since(&early).unwrap();
        assert_eq!(since, objects(&[3, 0]));
        assert!(objects(&[0, 0]).is_zero() && !since.is_zero());
        let mut sum = early.clone();
        sum.add(&since);
        assert_eq!(sum, objects(&[4, 5]));
        assert_eq!(late.since(&Objects::default()).unwrap(), late);
        objects(&[1]).since(&early).unwrap_err();
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes: Vec<u8>) {
            let mut file = counters(*b"B22*", &[]).to_gcda()[..16].to_vec();
            file.extend(&bytes);
            if let Ok(counters) = Counters::parse(&file) {
                prop_assert_eq!(Counters::parse(&counters.to_gcda()).unwrap(), counters);
            }
            let _ = Counters::parse(&bytes);
        }
    }
}

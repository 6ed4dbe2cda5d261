//! gcc's counters of an object file, in the form that the kernel prints: `convert_to_gcda()` in
//! `kernel/gcov/gcc_4_7.c`.
//!
//! The counters come from a guest, which is not trusted. They are parsed here, and gcov(1) receives
//! only a file that is written from the parsed values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The magic number of a `.gcda` file. This constant and the tags are from gcc's gcov-io.h.
const MAGIC: u32 = 0x6763_6461;
const TAG_FUNCTION: u32 = 0x0100_0000;
/// The tag of the first kind of counters, arcs. The tags of successive kinds are `1 << 17` apart.
const TAG_COUNTERS: u32 = 0x01a1_0000;
const KINDS: u32 = 9;

/// The first gcc version whose lengths are in bytes and whose file has its own checksum.
const BYTES_SINCE: u32 = 12;

/// The reason why bytes are not valid counters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the guest's gcov counters are malformed: {0}")]
pub struct MalformedCounters(&'static str);

/// The counters of one object file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    version: u32,
    stamp: u32,
    checksum: Option<u32>,
    functions: Vec<FunctionCounters>,
}

/// The counters of one function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FunctionCounters {
    /// The function's identifier, and checksums of its source location and of its control flow
    /// graph.
    about: [u32; 3],
    /// The counters by kind. The kernel's options produce only arcs.
    counters: Vec<(u32, Vec<u64>)>,
}

/// Takes the next 32-bit word from `bytes`, whose byte order `read` knows.
fn word(bytes: &mut &[u8], read: fn([u8; 4]) -> u32) -> Option<u32> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(read(*first))
}

impl Counters {
    /// Reads a `.gcda` file. It is in the byte order of the guest, which its magic number shows.
    pub fn parse(mut bytes: &[u8]) -> Result<Self, MalformedCounters> {
        let read =
            if bytes.starts_with(&MAGIC.to_be_bytes()) { u32::from_be_bytes } else { u32::from_le_bytes };
        let rest = &mut bytes;
        let mut next = || word(rest, read).ok_or(MalformedCounters("the file is truncated"));
        if next()? != MAGIC {
            return Err(MalformedCounters("wrong magic number"));
        }
        let (version, stamp) = (next()?, next()?);
        let in_bytes = major(version).ok_or(MalformedCounters("invalid gcc version"))? >= BYTES_SINCE;
        let checksum = if in_bytes { Some(next()?) } else { None };
        let words = |length: u32| if in_bytes { length / 4 } else { length };
        let mut functions: Vec<FunctionCounters> = Vec::new();
        while !bytes.is_empty() {
            let rest = &mut bytes;
            let mut next = || word(rest, read).ok_or(MalformedCounters("the file is truncated"));
            let (tag, length) = (next()?, words(next()?));
            if tag == TAG_FUNCTION {
                if length != 3 {
                    return Err(MalformedCounters("unexpected length of a function record"));
                }
                let about = [next()?, next()?, next()?];
                functions.push(FunctionCounters { about, counters: Vec::new() });
                continue;
            }
            let kind = tag.checked_sub(TAG_COUNTERS).filter(|above| above % (1 << 17) == 0);
            let Some(kind) = kind.map(|above| above >> 17).filter(|kind| *kind < KINDS) else {
                return Err(MalformedCounters("unknown record tag"));
            };
            let values = (0..length / 2).map(|_| Ok(u64::from(next()?) | u64::from(next()?) << 32));
            let values = values.collect::<Result<_, _>>()?;
            functions
                .last_mut()
                .ok_or(MalformedCounters("counters without a function"))?
                .counters
                .push((kind, values));
        }
        Ok(Self { version, stamp, checksum, functions })
    }

    /// Writes the counters as a `.gcda` file in little endian, whatever the guest's byte order is: gcov(1) reads both.
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

    /// Whether both are counters of the same code.
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

/// gcc's major version. The version `B22*` is 12.2 (gcov-iov.cc).
fn major(version: u32) -> Option<u32> {
    let [tens, ones, ..] = version.to_be_bytes();
    let tens = u32::from(tens.checked_sub(b'A').filter(|tens| *tens < 10)?);
    let ones = u32::from(ones.checked_sub(b'0').filter(|ones| *ones < 10)?);
    Some(tens * 10 + ones)
}

/// The counters of several object files, by the path of their source, such as `mm/slub.c`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Objects(pub BTreeMap<String, Counters>);

impl Objects {
    /// Whether all counters are zero.
    pub fn is_zero(&self) -> bool {
        self.0.values().flat_map(Counters::values).all(|value| *value == 0)
    }

    /// The counts since `earlier`.
    pub fn since(&self, earlier: &Self) -> Result<Self, MalformedCounters> {
        let mut since = self.clone();
        for (name, counters) in &mut since.0 {
            let Some(before) = earlier.0.get(name) else { continue };
            if !before.is_like(counters) {
                return Err(MalformedCounters("their layout changed during the trial"));
            }
            // The kernel's counters never decrease, but a hostile guest may send any value.
            counters
                .values_mut()
                .zip(before.values())
                .for_each(|(now, then)| *now = now.saturating_sub(*then));
        }
        Ok(since)
    }

    /// Adds the counts of `other`, which must be from the same kernel. Counters of different code
    /// are ignored.
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
                // A cut between two records gives a shorter valid file. Any other cut makes it
                // invalid.
                if let Ok(shorter) = Counters::parse(&bytes[..cut]) {
                    assert_eq!(shorter.to_gcda(), &bytes[..cut]);
                }
            }
        }
    }

    #[test]
    fn a_big_endian_guest_has_the_same_counters() {
        let all = counters(*b"B22*", &[0, 1, u64::MAX, 1 << 40]);
        let little = all.to_gcda();
        let big: Vec<u8> = little.chunks(4).flat_map(|word| word.iter().rev().copied()).collect();
        assert_eq!(Counters::parse(&big).unwrap(), all);
    }

    #[test]
    fn what_is_no_file_of_counters_is_refused() {
        let good = counters(*b"B22*", &[1]).to_gcda();
        let with = |at: usize, word: u32| {
            let mut bytes = good.clone();
            bytes[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
            Counters::parse(&bytes).unwrap_err().to_string()
        };
        assert!(with(0, 0).ends_with("wrong magic number"));
        assert!(with(1, 0).ends_with("invalid gcc version"));
        assert!(with(4, 0xa100_0000).ends_with("unknown record tag"));
        assert!(with(4, TAG_COUNTERS).ends_with("counters without a function"));
        assert!(with(5, 8).ends_with("unexpected length of a function record"));
        assert!(with(10, 1 << 30).ends_with("the file is truncated"));
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

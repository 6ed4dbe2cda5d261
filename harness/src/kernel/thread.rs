//! Chooses the patches of a series from the mails of its thread. Nothing that is left out is left
//! out silently.

use std::fmt::Write as _;
use std::sync::LazyLock;

use regex::Regex;

use super::mbox::Mail;
use super::patch::Patch;
use super::reply::ReplyTo;
use super::trailers::Trailers;
use crate::{Error, Result};

/// The patches of a series, in the order in which they are applied.
#[derive(Debug, Default)]
pub(crate) struct Series {
    pub(crate) patches: Vec<Patch>,
    /// What was left out, and what is odd, one sentence each.
    pub(crate) notes: Vec<String>,
    pub(crate) trailers: Trailers,
    /// The mail that a reply to the series answers: its cover letter, or its first patch.
    pub(crate) reply_to: Option<ReplyTo>,
}

/// Where the mails are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    /// One file, which has the whole thread: a missing patch is an error.
    File,
    /// A folder whose files somebody chose: a missing patch is a note.
    Folder,
}

/// The tag of a patch's subject: `[PATCH v2 1/3]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tag {
    version: u32,
    /// The number of the patch, and that of all. The number of a cover letter is 0.
    place: Option<(u32, u32)>,
}

/// `Re:` and what mail programs of other languages write in its place.
static REPLY: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?i)^\s*(?:re|aw|antw|sv|vs)\s*(?:\[\d+\])?:").expect("a constant"));
static VERSION: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?i)(?:\b|patch)v(\d{1,4})\b").expect("a constant"));
static PLACE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b(\d{1,4})/(\d{1,4})\b").expect("a constant"));

impl Tag {
    fn of(subject: &str) -> Option<Self> {
        let mut rest = subject.trim_start();
        let mut is_patch = false;
        let mut tag = Self { version: 1, place: None };
        while let Some((inside, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            let upper = inside.to_ascii_uppercase();
            is_patch |= upper.contains("PATCH") || upper.contains("RFC");
            let number = |text: &str| text.parse::<u32>().ok();
            if let Some(version) = VERSION.captures(inside).and_then(|found| number(&found[1])) {
                tag.version = version;
            }
            if let Some(found) = PLACE.captures(inside) {
                tag.place = number(&found[1]).zip(number(&found[2]));
            }
            rest = after.trim_start();
        }
        is_patch.then_some(tag)
    }
}

/// A mail that may be a part of the series.
struct Candidate {
    tag: Option<Tag>,
    mail: Mail,
}

impl Candidate {
    fn place(&self) -> Option<(u32, u32)> {
        self.tag?.place
    }

    fn name(&self) -> &str {
        self.mail.subject.as_deref().unwrap_or(&self.mail.name)
    }
}

/// Chooses the patches of the newest version. Replies are never applied, also if they have a diff.
///
/// Fails with a user error if a patch of the series is missing from its file, or if two different
/// patches have one number. `name` is that of the file or folder.
pub(super) fn choose(mails: Vec<Mail>, from: Container, name: &str) -> Result<Series> {
    let mut notes = Vec::new();
    let several = mails.len() > 1;
    let mut left_out = |mail: &Mail, why: &str| {
        let what = mail.subject.as_deref().unwrap_or(&mail.name);
        notes.push(format!("left out, {why}: {what}"));
    };
    let mut all: Vec<Candidate> = Vec::new();
    for mail in mails {
        let subject = mail.subject.as_deref().unwrap_or_default();
        let tag = Tag::of(subject);
        if REPLY.is_match(subject) || mail.answers && tag.is_none() {
            left_out(&mail, if mail.patch.is_some() { "a reply with a diff" } else { "a reply" });
        } else if mail.patch.is_none() && tag.and_then(|tag| tag.place).is_none() && several {
            left_out(&mail, "no diff");
        } else {
            all.push(Candidate { tag, mail });
        }
    }
    let newest = all.iter().filter_map(|one| one.tag).map(|tag| tag.version).max();
    let mut keep = |all: &mut Vec<Candidate>, keep: &dyn Fn(&Candidate) -> bool, why: &str| {
        for one in all.extract_if(.., |one| !keep(&*one)) {
            left_out(&one.mail, why);
        }
    };
    if let Some(newest) = newest {
        let why = format!("version {newest} is newer");
        keep(&mut all, &|one| one.tag.is_none_or(|tag| tag.version == newest), &why);
    }
    // A patch that somebody proposes in reply to a series, or to another patch, is no part of it.
    let is_loose = |one: &Candidate| one.tag.is_some_and(|tag| tag.place.is_none());
    if all.iter().any(|one| one.place().is_some() || is_loose(one) && !one.mail.answers) {
        keep(&mut all, &|one| !(is_loose(one) && one.mail.answers), "a patch in reply to the series");
    }
    let mut trailers = Trailers::default();
    for one in &all {
        trailers = trailers.or(&one.mail.trailers);
    }
    check(&mut all, from, several, newest, name, &mut notes)?;
    let reply_to = all.iter().find_map(|one| one.mail.reply_to.clone());
    let patches = all.into_iter().filter_map(|one| one.mail.patch).collect();
    Ok(Series { patches, notes, trailers, reply_to })
}

/// Checks that the numbered patches are all there, each once, and sorts them.
fn check(
    all: &mut Vec<Candidate>,
    from: Container,
    several: bool,
    version: Option<u32>,
    name: &str,
    notes: &mut Vec<String>,
) -> Result<()> {
    let version = match version {
        Some(version) if version > 1 => format!(" of version {version}"),
        _ => String::new(),
    };
    let mut seen: Vec<(u32, u32)> = all.iter().filter_map(Candidate::place).collect();
    seen.sort_unstable();
    let Some(&(_, of)) = seen.first() else { return Ok(()) };
    if let Some((_, other)) = seen.iter().find(|(_, other)| *other != of) {
        return Err(Error::user(format!(
            "{name} has two series{version}: one of {of}, one of {other} patches"
        ))
        .help("give a file with one of them"));
    }
    // A patch that came twice is applied once.
    let mut kept: Vec<Candidate> = Vec::new();
    for one in all.drain(..) {
        let twin = one.place().and_then(|place| kept.iter().find(|kept| kept.place() == Some(place)));
        let diff = |one: &Candidate| one.mail.patch.as_ref().map(|patch| patch.diff.clone());
        match twin {
            Some(twin) if diff(twin) == diff(&one) => {
                notes.push(format!("left out, the same patch again: {}", one.name()));
            }
            Some(twin) => {
                return Err(Error::user(format!(
                    "{name} has two different patches with one number{version}"
                ))
                .detail(format!("{}\n{}", twin.name(), one.name()))
                .help("remove one of them"));
            }
            None => kept.push(one),
        }
    }
    let has = |number: u32| {
        let there = |one: &Candidate| one.place() == Some((number, of)) && one.mail.patch.is_some();
        kept.iter().any(there)
    };
    let missing: Vec<String> =
        (1..=of).filter(|number| !has(*number)).map(|number| format!("{number}/{of}")).collect();
    if !missing.is_empty() {
        let mut what = format!("{name} lacks {}{version}", missing.join(", "));
        if from == Container::File && several {
            return Err(Error::user(what)
                .help("fetch the whole thread (b4 mbox MESSAGE-ID), or give the patches as single files"));
        }
        let _ = write!(what, " of its series");
        notes.push(what);
    }
    // A mail server delivers a thread in any order. The numbered patches are sorted among
    // themselves, and the others stay where they are.
    let slots: Vec<usize> = (0..kept.len()).filter(|at| kept[*at].place().is_some()).collect();
    let mut order = slots.clone();
    order.sort_by_key(|at| kept[*at].place());
    let mut keyed: Vec<(usize, Candidate)> = kept
        .into_iter()
        .enumerate()
        .map(|(at, one)| (order.iter().position(|other| *other == at).map_or(at, |rank| slots[rank]), one))
        .collect();
    keyed.sort_by_key(|(slot, _)| *slot);
    let kept = keyed.into_iter().map(|(_, one)| one).collect();
    *all = kept;
    Ok(())
}

#[cfg(test)]
#[path = "thread_tests.rs"]
mod tests;

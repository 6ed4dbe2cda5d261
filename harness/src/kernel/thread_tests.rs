use super::*;
use crate::kernel::patch::parse;

const REPLIED: bool = true;
const FIRST: bool = false;

/// A mail with a diff of `file`, or without any diff.
fn mail(subject: &str, answers: bool, file: &str) -> Mail {
    let diff = format!("--- a/{file}\n+++ b/{file}\n@@ -1 +1 @@\n-a\n+b\n");
    Mail {
        name: format!("x.mbox ({subject})"),
        subject: Some(subject.into()),
        answers,
        reply_to: None,
        patch: if file.is_empty() { None } else { parse(subject, Some(subject.into()), &diff).unwrap() },
        trailers: Trailers::default(),
    }
}

fn thread(mails: &[(&str, bool, &str)]) -> Vec<Mail> {
    mails.iter().map(|(subject, answers, file)| mail(subject, *answers, file)).collect()
}

fn files(series: &Series) -> Vec<&str> {
    series.patches.iter().map(|patch| patch.files[0].paths[0].as_str()).collect()
}

fn chosen(mails: &[(&str, bool, &str)]) -> Series {
    choose(thread(mails), Container::File, "x.mbox").unwrap()
}

fn refused(mails: &[(&str, bool, &str)]) -> String {
    let error = choose(thread(mails), Container::File, "x.mbox").unwrap_err();
    assert_eq!(error.exit_status(), 2);
    error.to_string()
}

#[test]
fn tags_of_all_kinds() {
    let tag = |subject: &str| Tag::of(subject).map(|tag| (tag.version, tag.place));
    assert_eq!(tag("[PATCH] mm: x"), Some((1, None)));
    assert_eq!(tag("[PATCH 02/13] mm: x"), Some((1, Some((2, 13)))));
    assert_eq!(tag("[RFC PATCH net-next v3 0/4] x"), Some((3, Some((0, 4)))));
    assert_eq!(tag("[PATCHv2 1/2] x"), Some((2, Some((1, 2)))));
    assert_eq!(tag("[RESEND] [PATCH v4 1/1] x"), Some((4, Some((1, 1)))));
    assert_eq!(tag("[RFC 1/2] x"), Some((1, Some((1, 2)))));
    for none in ["mm: x", "[ANNOUNCE] 1/2", "Re: [PATCH 1/2] x", "[SPAM v2] x"] {
        assert_eq!(tag(none), None, "{none}");
    }
}

#[test]
fn replies_are_never_applied_also_with_a_diff() {
    let series = chosen(&[
        ("[PATCH 0/2] series", FIRST, ""),
        ("[PATCH 2/2] two", REPLIED, "two"),
        ("Re: [PATCH 2/2] two", REPLIED, "rather-this"),
        ("RE: [PATCH 0/2] series", REPLIED, ""),
        ("why at all?", REPLIED, "and-this"),
        ("[PATCH] fix up for the second one", REPLIED, "fixup"),
        ("[PATCH 1/2] one", REPLIED, "one"),
    ]);
    assert_eq!(files(&series), ["one", "two"]);
    assert_eq!(
        series.notes,
        [
            "left out, a reply with a diff: Re: [PATCH 2/2] two",
            "left out, a reply: RE: [PATCH 0/2] series",
            "left out, a reply with a diff: why at all?",
            "left out, a patch in reply to the series: [PATCH] fix up for the second one",
        ]
    );
    // A patch in reply to a discussion is a patch.
    assert_eq!(files(&chosen(&[("bug", FIRST, ""), ("[PATCH] fix it", REPLIED, "fix")])), ["fix"]);
}

#[test]
fn the_newest_version_is_taken() {
    let series = chosen(&[
        ("[PATCH 1/2] one", REPLIED, "old-one"),
        ("[PATCH 2/2] two", REPLIED, "old-two"),
        ("[PATCH v2 1/1] one", REPLIED, "one"),
    ]);
    assert_eq!(files(&series), ["one"]);
    assert_eq!(series.notes[0], "left out, version 2 is newer: [PATCH 1/2] one");
    assert_eq!(files(&chosen(&[("[PATCH] x", FIRST, "old"), ("[PATCH v2] x", REPLIED, "new")])), ["new"]);
}

#[test]
fn a_missing_patch_is_an_error_in_a_thread_and_a_note_in_a_folder() {
    let lacks = [("[PATCH v2 0/3] s", FIRST, ""), ("[PATCH v2 1/3] one", REPLIED, "one")];
    let error = refused(&lacks);
    assert!(error.starts_with("x.mbox lacks 2/3, 3/3 of version 2\n  help: fetch"), "{error}");
    let series = choose(thread(&lacks), Container::Folder, "x").unwrap();
    assert_eq!(series.notes, ["x lacks 2/3, 3/3 of version 2 of its series"]);
    // One mail of a series is judged by itself.
    let series = chosen(&[("[PATCH 2/3] two", REPLIED, "two")]);
    assert_eq!((files(&series), series.notes.len()), (vec!["two"], 1));
    // Its diff was lost.
    let error = refused(&[("[PATCH 1/2] one", FIRST, "one"), ("[PATCH 2/2] two", REPLIED, "")]);
    assert!(error.starts_with("x.mbox lacks 2/2"), "{error}");
}

#[test]
fn two_patches_with_one_number_are_not_guessed_at() {
    let same = chosen(&[
        ("[PATCH 1/2] a", FIRST, "a"),
        ("[PATCH 2/2] b", FIRST, "b"),
        ("[PATCH 1/2] a", FIRST, "a"),
    ]);
    assert_eq!(files(&same), ["a", "b"]);
    assert_eq!(same.notes, ["left out, the same patch again: [PATCH 1/2] a"]);
    let error = refused(&[("[PATCH 1/2] a", FIRST, "a"), ("[PATCH 1/2] b", FIRST, "b")]);
    assert!(error.starts_with("x.mbox has two different patches with one number"), "{error}");
    let error = refused(&[("[PATCH 1/2] a", FIRST, "a"), ("[PATCH 1/3] b", FIRST, "b")]);
    assert!(error.starts_with("x.mbox has two series"), "{error}");
}

#[test]
fn patches_without_numbers_stay_in_their_order() {
    let series = choose(
        thread(&[
            ("mm: as quilt writes it", FIRST, "z"),
            ("[PATCH 2/2] b", FIRST, "b"),
            ("no tag", FIRST, "y"),
            ("[PATCH 1/2] a", FIRST, "a"),
        ]),
        Container::Folder,
        "folder",
    )
    .unwrap();
    assert_eq!(files(&series), ["z", "a", "y", "b"]);
    assert_eq!(series.notes, Vec::<String>::new());
}

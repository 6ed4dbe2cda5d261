//! Reads mails with git's own tools, which know their encodings: `git mailsplit` and `git mailinfo`.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::command;
use super::patch::{Patch, parse};
use super::reply::ReplyTo;
use super::trailers::Trailers;
use crate::{Error, Result};

/// A mail, or a file with a diff and no mail.
#[derive(Debug, Clone)]
pub(super) struct Mail {
    /// The name of its file, with the number of the mail if the file has several.
    pub(super) name: String,
    /// Its subject, with `[PATCH 1/3]`.
    pub(super) subject: Option<String>,
    /// Whether its header names a mail that it answers.
    pub(super) answers: bool,
    /// Its header, for a reply to it.
    pub(super) reply_to: Option<ReplyTo>,
    /// Its diff.
    pub(super) patch: Option<Patch>,
    /// What it says about the source that it was made for.
    pub(super) trailers: Trailers,
}

/// The mails of a file with the content `bytes`. A file without any mail is taken for a diff.
pub(super) async fn read(file: &Path, bytes: &[u8], cancel: &CancellationToken) -> Result<Vec<Mail>> {
    if is_mail(bytes) {
        return read_mails(file, bytes, cancel).await;
    }
    let name = file.display().to_string();
    let text = String::from_utf8_lossy(bytes);
    let patch = parse(&name, None, &text)?;
    let trailers = Trailers::of(&text);
    Ok(vec![Mail { name, subject: None, answers: false, reply_to: None, patch, trailers }])
}

/// Whether `git mailsplit` can read the file.
fn is_mail(bytes: &[u8]) -> bool {
    bytes.starts_with(b"From ")
        || bytes.starts_with(b"From: ")
        // An mbox from a web archive may start with any header. The header lines of a diff never
        // look like these.
        || header(bytes).any(|line| line.starts_with(b"Subject: ") || line.starts_with(b"Message-ID: "))
}

/// The lines before the first empty one.
fn header(mail: &[u8]) -> impl Iterator<Item = &[u8]> {
    mail.split(|&byte| byte == b'\n').take_while(|line| !line.trim_ascii().is_empty())
}

/// Whether a mail answers another one (RFC 5322, 3.6.4).
fn answers(mail: &[u8]) -> bool {
    let is = |line: &[u8], name: &str| {
        line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()))
    };
    header(mail).any(|line| is(line, "In-Reply-To:") || is(line, "References:"))
}

/// Splits mails and removes their headers, encodings and quoting.
async fn read_mails(file: &Path, bytes: &[u8], cancel: &CancellationToken) -> Result<Vec<Mail>> {
    let folder = tempfile::tempdir()?;
    let (whole, single) = (folder.path().join("mbox"), folder.path().join("mails"));
    // The file may be packed.
    fs_err::write(&whole, bytes)?;
    fs_err::create_dir(&single)?;
    let split = command::git(folder.path())
        .arg("mailsplit")
        .arg("-b")
        .arg(format!("-o{}", single.display()))
        .arg(&whole);
    command::capture(split, cancel).await?.ok(|said| {
        Error::user(format!("{} is not a mail or an mbox: {said}", file.display()))
            .help("save it in the form that `git format-patch` writes")
    })?;
    let mut files = Vec::new();
    for entry in fs_err::read_dir(&single)? {
        files.push(entry?.path());
    }
    files.sort();
    let several = files.len() > 1;
    let mut mails = Vec::new();
    for (index, mail) in files.iter().enumerate() {
        let (message, diff) = (folder.path().join("message"), folder.path().join("diff"));
        let info = command::git(folder.path())
            .args(["mailinfo", "-k"])
            .arg(&message)
            .arg(&diff)
            .stdin(fs_err::File::open(mail)?.into_parts().0);
        let said = command::capture(info, cancel).await?.ok(|said| {
            Error::user(format!("mail {} of {} cannot be read: {said}", index + 1, file.display()))
        })?;
        let headers = String::from_utf8_lossy(&said).into_owned();
        let subject = headers.lines().find_map(|line| line.strip_prefix("Subject: ")).map(str::to_owned);
        let mut name = file.display().to_string();
        if several {
            name = format!("{name} (mail {}: {})", index + 1, subject.as_deref().unwrap_or("no subject"));
        }
        let text = |file: &Path| Ok::<_, Error>(String::from_utf8_lossy(&fs_err::read(file)?).into_owned());
        let (message, diff) = (text(&message)?, text(&diff)?);
        let whole = fs_err::read(mail)?;
        mails.push(Mail {
            patch: parse(&name, subject.clone(), &diff)?,
            trailers: Trailers::of(&format!("{message}\n{diff}")),
            answers: answers(&whole),
            reply_to: ReplyTo::of(&whole),
            name,
            subject,
        });
    }
    Ok(mails)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_tells_whether_a_mail_answers_another() {
        assert!(answers(b"Subject: x\nin-reply-to: <1@x>\n\ntext\n"));
        assert!(answers(b"References: <1@x>\r\n\r\ntext\r\n"));
        assert!(!answers(b"Subject: x\n\nIn-Reply-To: <1@x>\n"));
    }
}

//! `hotplug scan`: reads any kernel log and prints the reports in it.

use std::io::{BufReader, Seek, Write};
use std::path::PathBuf;

use clap::Args;
use hotplug_kreport::Scanner;
use hotplug_kreport::symbols::Symbols;

use hotplug::comparison::known_issues;
use hotplug::present::scan::Sink;
use hotplug::scan::scan_file;
use hotplug::{Error, ErrorKind, Result};

/// Options of `hotplug scan`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug scan console.log
  dmesg | hotplug scan --vmlinux /usr/lib/debug/boot/vmlinux -
  hotplug scan --json --known known.toml ci-logs/job.log.gz

Exit status: 0 no reports, or only known ones; 1 reports, or refusals with --refusals;
2 a file cannot be read, or is no kernel log.")]
pub struct ScanArgs {
    /// Kernel logs: serial console, dmesg, journalctl, /dev/kmsg, or CI log, or mails and issues that
    /// quote one, also packed with gzip, xz or zstd; - is standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Kernel image with debug information, from which frames get source lines and inlined callers
    #[arg(long, value_name = "FILE")]
    pub vmlinux: Option<PathBuf>,
    /// TOML file of known issues, which are listed separately and do not affect the exit status
    #[arg(long, value_name = "FILE")]
    pub known: Option<PathBuf>,
    /// Also list lines in which the kernel refuses memory or CPU hotplug. They are no reports of bugs
    #[arg(long)]
    pub refusals: bool,
    /// Print this many lines of the log before and after each report
    #[arg(long, value_name = "LINES", conflicts_with = "json")]
    pub context: Option<u64>,
}

/// Scans the files. Returns the exit status: 0 if there is no report but known issues, 1 otherwise.
/// A file that cannot be read, or that is no kernel log, is an error, whose exit status is 2. The
/// other files are scanned all the same.
pub fn run(args: &ScanArgs, out: &mut dyn Write) -> Result<u8> {
    let symbols = args.vmlinux.as_deref().map(Symbols::open).transpose()?;
    let known = known_issues(args.known.as_deref())?;
    let mut sink = Sink::new(args.json, known, args.files.len() > 1);
    let mut out = std::io::BufWriter::new(out);
    sink.start(&mut out)?;
    let mut errors: Vec<Error> = Vec::new();
    for path in &args.files {
        let name = path.display().to_string();
        let scanner = if args.refusals { Scanner::new().with_refusals() } else { Scanner::new() };
        // Standard input can be read only once, so the lines around reports come from a copy.
        let mut copy = args.context.map(|_| tempfile::tempfile()).transpose()?;
        let result = scan_file(path, scanner, copy.as_mut(), |mut report| {
            if let Some(symbols) = &symbols {
                symbols.resolve(&mut report);
            }
            sink.report(&name, report, &mut out)
        });
        match result {
            Ok(rest) => {
                sink.was_read();
                sink.rest(&name, rest);
                if let (Some(mut copy), Some(count)) = (copy, args.context) {
                    copy.rewind()?;
                    sink.context(&name, BufReader::new(copy), count)?;
                }
            }
            Err(error) if error.kind() == ErrorKind::User => {
                sink.was_not_read(&name, &error.in_one_line());
                errors.push(error);
            }
            Err(error) => return Err(error),
        }
    }
    let status = sink.finish(&mut out)?;
    out.flush()?;
    match errors.len() {
        0 => Ok(status),
        1 => Err(errors.remove(0)),
        some => {
            let lines: Vec<String> = errors.iter().map(Error::in_one_line).collect();
            Err(Error::user(format!("{some} of {} files were not scanned", args.files.len()))
                .detail(lines.join("\n")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARNING: &str = "[    1.000000] WARNING: CPU: 0 PID: 1 at mm/x.c:1 foo+0x1/0x2\n[    1.000000] Call Trace:\n[    1.000000]  bar+0x1/0x2\n";

    /// The output without its colours.
    fn plain(out: Vec<u8>) -> String {
        anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string()
    }

    #[test]
    fn reports_are_red_and_their_absence_is_green() {
        let coloured = |log: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), log).unwrap();
            let mut out = Vec::new();
            run(&ScanArgs { files: vec![file.path().into()], ..bare() }, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let (red, green, end) = ("\u{1b}[1m\u{1b}[31m", "\u{1b}[1m\u{1b}[32m", "\u{1b}[0m");
        let text = coloured(WARNING);
        assert!(text.starts_with(&format!("{red}WARNING in foo{end}\n")), "{text:?}");
        assert!(text.ends_with(&format!("{red}1 report{end}\n")), "{text:?}");
        assert_eq!(coloured("[    1.000000] hello\n"), format!("{green}no reports{end}\n"));
    }

    fn bare() -> ScanArgs {
        ScanArgs {
            files: Vec::new(),
            json: false,
            vmlinux: None,
            known: None,
            refusals: false,
            context: None,
        }
    }

    fn scan(log: &str, json: bool, known: Option<&str>) -> (u8, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log");
        std::fs::write(&file, log).unwrap();
        let known = known.map(|text| {
            let path = folder.path().join("known.toml");
            std::fs::write(&path, text).unwrap();
            path
        });
        let mut out = Vec::new();
        let args = ScanArgs { files: vec![file], json, known, ..bare() };
        let status = run(&args, &mut out).unwrap();
        (status, plain(out))
    }

    #[test]
    fn the_status_says_whether_there_are_reports() {
        assert_eq!(scan("[    1.000000] hello\n", false, None), (0, "no reports\n".to_owned()));
        let (status, text) = scan(WARNING, false, None);
        assert!(status == 1 && text.starts_with("WARNING in foo\n"), "{text}");
        let missing = ScanArgs { files: vec!["/no/such/log".into()], ..bare() };
        assert_eq!(run(&missing, &mut Vec::new()).unwrap_err().exit_status(), 2);
    }

    #[test]
    fn json_is_json() {
        let (status, text) = scan(&WARNING.repeat(2), true, None);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, value["schema"].as_u64()), (1, Some(1)));
        let first = &value["reports"][0];
        assert_eq!((first["kind"].as_str(), first["lines"][1].as_u64()), (Some("warning"), Some(3)));
        assert_eq!(first["signature"], value["reports"][1]["signature"]);
        let (status, text) = scan("[    1.000000] hello\n", true, None);
        assert_eq!(status, 0);
        assert!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap()["reports"]
                .as_array()
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn what_was_not_scanned_is_told_and_the_rest_is_scanned() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let files = vec![file("empty", ""), file("log", WARNING)];
        for json in [false, true] {
            let mut out = Vec::new();
            let args = ScanArgs { files: files.clone(), json, ..bare() };
            let error = run(&args, &mut out).unwrap_err();
            assert_eq!(error.exit_status(), 2);
            assert!(error.to_string().starts_with("no kernel log in "), "{error}");
            let text = plain(out);
            if json {
                let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(value["reports"].as_array().unwrap().len(), 1);
                let why = value["not_scanned"][0]["why"].as_str().unwrap();
                assert!(why.ends_with("it is empty"), "{why}");
            } else {
                assert!(
                    text.contains("WARNING in foo\n") && text.contains("not scanned: no kernel"),
                    "{text}"
                );
                assert!(text.ends_with("1 report in 1 of 2 files\n"), "{text}");
            }
        }
        let args = ScanArgs { files: files[..1].to_vec(), ..bare() };
        let mut out = Vec::new();
        run(&args, &mut out).unwrap_err();
        assert!(!plain(out).contains("no reports"));
    }

    #[test]
    fn known_reports_do_not_fail_the_run() {
        let (status, text) = scan(WARNING, false, Some("[[known]]\nreason = \"ours\"\ntitle = 'foo$'\n"));
        assert!(status == 0 && text.contains("known   WARNING in foo (1 times): ours"), "{text}");
    }

    #[test]
    fn refusals_are_no_reports_and_are_told_on_request() {
        let log = "[    9.000000] pseries-hotplug-mem: Memory hot-remove failed, adding LMB's back\n";
        assert_eq!(scan(log, false, None), (0, "no reports\n".to_owned()));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log");
        std::fs::write(&file, log).unwrap();
        let mut out = Vec::new();
        let args = ScanArgs { files: vec![file.clone()], refusals: true, ..bare() };
        assert_eq!(run(&args, &mut out).unwrap(), 1);
        let text = plain(out);
        assert!(text.starts_with("refused removing memory: not enough LMBs could be removed\n"), "{text}");
        assert!(text.ends_with("no reports, 1 refusal\n"), "{text}");
        let mut out = Vec::new();
        run(&ScanArgs { files: vec![file], refusals: true, json: true, ..bare() }, &mut out).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let refusal = &value["refusals"][0];
        assert_eq!(
            (refusal["class"].as_str(), refusal["what"].as_str()),
            (Some("refusal"), Some("memory-remove"))
        );
        let (_, text) = scan(log, true, None);
        assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["refusals"].is_null());
    }

    #[test]
    fn a_quoted_report_is_told_as_quoted() {
        let bare: Vec<&str> = WARNING.lines().map(|line| line.split_once("] ").unwrap().1).collect();
        let quoted = format!("> {}\n", bare.join("\n> "));
        let mail = format!("From: a@b.org\nSubject: crash\n\n{quoted}\nThanks\n");
        let (status, text) = scan(&mail, false, None);
        assert!(status == 1 && text.contains("note    1 report is quoted in a mail\n"), "{text}");
        let (_, text) = scan(&mail, true, None);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let report = &value["reports"][0];
        assert_eq!((report["container"].as_str(), report["quoted"].as_bool()), (Some("mail"), Some(true)));
        let patch = mail.replace("Subject: crash", "Subject: [PATCH] fix crash");
        let (status, text) = scan(&patch, false, None);
        let note = "note    1 report does not count: it is in a commit message or a patch (line 4)\n";
        assert_eq!((status, text), (0, format!("{note}no reports\n")));
    }

    #[test]
    fn lines_around_a_report_are_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log");
        std::fs::write(&file, format!("[    0.500000] before\n{WARNING}[    2.000000] after\n")).unwrap();
        let mut out = Vec::new();
        run(&ScanArgs { files: vec![file], context: Some(1), ..bare() }, &mut out).unwrap();
        let text = plain(out);
        assert!(text.contains("      1  [    0.500000] before\n          2  (the report)\n          5  [    2.000000] after\n"), "{text}");
    }
}

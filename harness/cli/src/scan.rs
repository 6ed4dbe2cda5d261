//! `hotplug scan`: reads any kernel log and prints the reports in it.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
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

Exit status: 0 no reports, or only known ones; 1 reports; 2 a file cannot be read, or is no kernel log.")]
pub struct ScanArgs {
    /// Kernel logs: serial console, dmesg, journalctl, /dev/kmsg, or CI log, also packed with gzip,
    /// xz or zstd; - is standard input
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
        let scanned = scan_file(path, |mut report| {
            if let Some(symbols) = &symbols {
                symbols.resolve(&mut report);
            }
            sink.report(&name, report, &mut out)
        });
        match scanned {
            Ok(()) => sink.was_read(),
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
        let args = ScanArgs { files: vec![file], json, vmlinux: None, known };
        let status = run(&args, &mut out).unwrap();
        (status, String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_status_says_whether_there_are_reports() {
        assert_eq!(scan("[    1.000000] hello\n", false, None), (0, "no reports\n".to_owned()));
        let (status, text) = scan(WARNING, false, None);
        assert!(status == 1 && text.starts_with("WARNING in foo\n"), "{text}");
        let missing =
            ScanArgs { files: vec!["/no/such/log".into()], json: false, vmlinux: None, known: None };
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
            let args = ScanArgs { files: files.clone(), json, vmlinux: None, known: None };
            let error = run(&args, &mut out).unwrap_err();
            assert_eq!(error.exit_status(), 2);
            assert!(error.to_string().starts_with("no kernel log in "), "{error}");
            let text = String::from_utf8(out).unwrap();
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
        let args = ScanArgs { files: files[..1].to_vec(), json: false, vmlinux: None, known: None };
        let mut out = Vec::new();
        run(&args, &mut out).unwrap_err();
        assert!(!String::from_utf8(out).unwrap().contains("no reports"));
    }

    #[test]
    fn known_reports_do_not_fail_the_run() {
        let (status, text) = scan(WARNING, false, Some("[[known]]\nreason = \"ours\"\ntitle = 'foo$'\n"));
        assert!(status == 0 && text.contains("known   WARNING in foo (1 times): ours"), "{text}");
    }
}

//! `hotplug scan`: reads any kernel log and prints the reports in it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use hotplug_kreport::symbols::Symbols;
use hotplug_kreport::{Report, Scanner};

use hotplug::comparison::known_issues;
use hotplug::present::scan::Sink;
use hotplug::{Error, Result};

/// Bytes of one read.
const CHUNK: usize = 256 * 1024;

/// Options of `hotplug scan`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug scan console.log
  dmesg | hotplug scan --vmlinux /usr/lib/debug/boot/vmlinux -
  hotplug scan --json --known known.toml ci-logs/job.log

Exit status: 0 no reports, or only known ones; 1 reports; 2 a file cannot be read.")]
pub struct ScanArgs {
    /// Kernel logs: serial console, dmesg, journalctl, /dev/kmsg, or CI log; - is standard input
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
/// A file that cannot be read is an error, whose exit status is 2.
pub fn run(args: &ScanArgs, out: &mut dyn Write) -> Result<u8> {
    let symbols = args.vmlinux.as_deref().map(Symbols::open).transpose()?;
    let known = known_issues(args.known.as_deref())?;
    let mut sink = Sink::new(args.json, known, args.files.len() > 1);
    let mut out = std::io::BufWriter::new(out);
    sink.start(&mut out)?;
    for path in &args.files {
        let name = path.display().to_string();
        scan_file(path, |mut report| {
            if let Some(symbols) = &symbols {
                symbols.resolve(&mut report);
            }
            sink.report(&name, report, &mut out)
        })?;
    }
    let status = sink.finish(&mut out)?;
    out.flush()?;
    Ok(status)
}

/// Reads one file in bounded memory.
fn scan_file(path: &Path, mut each: impl FnMut(Report) -> Result<()>) -> Result<()> {
    let cannot = |error: std::io::Error| Error::user(format!("cannot read {}", path.display())).detail(error);
    let mut input: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(cannot)?)
    };
    let mut scanner = Scanner::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match input.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => scanner.feed(&chunk[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(cannot(error)),
        }
        scanner.drain().try_for_each(&mut each)?;
    }
    scanner.finish().into_iter().try_for_each(each)
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
        let (status, text) = scan("", true, None);
        assert_eq!(status, 0);
        assert!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap()["reports"]
                .as_array()
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn known_reports_do_not_fail_the_run() {
        let (status, text) = scan(WARNING, false, Some("[[known]]\nreason = \"ours\"\ntitle = 'foo$'\n"));
        assert!(status == 0 && text.contains("known   WARNING in foo (1 times): ours"), "{text}");
    }
}

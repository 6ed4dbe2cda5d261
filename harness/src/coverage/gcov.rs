//! Turns counters into counts of lines with gcov(1), which reads gcc's notes of the control flow
//! graph.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::Objects;
use crate::kernel::{Tool, capture};
use crate::{Error, Result};

/// The counts of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LineCounts {
    /// The count of each line that has code.
    pub lines: BTreeMap<u32, u64>,
    /// Lines of which a part has no count. gcov derives counts from others, and these were read while
    /// the guest ran, so the result can be negative.
    pub skewed: BTreeSet<u32>,
    /// The file's functions, by name.
    pub functions: BTreeMap<String, Function>,
}

/// The lines and the count of one function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Function {
    /// The function's first line.
    pub start: u32,
    /// The function's last line.
    pub end: u32,
    /// How often the function was entered.
    pub entered: u64,
}

/// gcov's output (`gcov --json-format`, gcov(1)).
#[derive(Debug, Deserialize)]
struct Report {
    files: Vec<ReportFile>,
}

#[derive(Debug, Deserialize)]
struct ReportFile {
    file: String,
    functions: Vec<ReportFunction>,
    lines: Vec<ReportLine>,
}

#[derive(Debug, Deserialize)]
struct ReportFunction {
    name: String,
    start_line: u32,
    end_line: u32,
    execution_count: i64,
}

#[derive(Debug, Deserialize)]
struct ReportLine {
    line_number: u32,
    count: i64,
}

/// The counts of the files `wanted`, from the counters of the object files whose notes are in
/// `kept`. If an object has no counters, its lines are listed with a count of zero.
pub async fn line_counts(
    kept: &Path,
    sources: &[String],
    objects: &Objects,
    wanted: &[String],
    cancel: &CancellationToken,
) -> Result<BTreeMap<String, LineCounts>> {
    let mut all: BTreeMap<String, LineCounts> = BTreeMap::new();
    for source in sources {
        let scratch = tempfile::tempdir()?;
        fs_err::copy(
            kept.join(Path::new(source).with_extension("gcno")),
            scratch.path().join("object.gcno"),
        )?;
        if let Some(counters) = objects.0.get(source) {
            fs_err::write(scratch.path().join("object.gcda"), counters.to_gcda())?;
        }
        let gcov = Tool::new("gcov", scratch.path()).args(["--json-format", "--stdout", "object.gcno"]);
        let said = capture(gcov, cancel).await?;
        // If the counters do not match the notes, gcov prints this message and continues as if
        // there were no counters.
        if said.stderr.contains("mismatch") || said.stderr.contains("version") {
            return Err(Error::infrastructure(format!("gcov rejects the counters of {source}"))
                .detail(said.stderr.trim()));
        }
        let text = said.ok(|said| {
            Error::infrastructure(format!("gcov cannot read the counters of {source}")).detail(said)
        })?;
        let report: Report = serde_json::from_slice(&text)
            .map_err(|error| Error::infrastructure(format!("cannot parse gcov's JSON output: {error}")))?;
        for file in report.files {
            let Some(name) = wanted.iter().find(|name| is(&file.file, name)) else { continue };
            all.entry(name.clone()).or_default().add(file);
        }
    }
    Ok(all)
}

/// Whether the compiler's path `said` is that of the source's file `name`.
fn is(said: &str, name: &str) -> bool {
    said.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

impl LineCounts {
    /// Adds the counts of one file in gcov's output. A line of a header or of an inlined function
    /// occurs in several functions, and its counts are added up.
    fn add(&mut self, file: ReportFile) {
        for ReportLine { line_number, count } in file.lines {
            let known = self.lines.entry(line_number).or_default();
            match u64::try_from(count) {
                Ok(count) => *known = known.saturating_add(count),
                Err(_) => drop(self.skewed.insert(line_number)),
            }
        }
        for ReportFunction { name, start_line, end_line, execution_count } in file.functions {
            let known = self.functions.entry(name).or_default();
            let entered = known.entered.saturating_add(u64::try_from(execution_count).unwrap_or(0));
            *known = Function { start: start_line, end: end_line, entered };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Counters;
    use super::*;

    /// Seen after ten trials of a loaded guest: `"count": -1`.
    #[test]
    fn a_negative_count_is_no_count() {
        let report = r#"{"files": [{"file": "mm/a.c", "functions": [
            {"name": "f", "start_line": 1, "end_line": 9, "execution_count": -1}], "lines": [
            {"line_number": 2, "count": -1}, {"line_number": 3, "count": -1}, {"line_number": 3, "count": 4}]}]}"#;
        let report: Report = serde_json::from_str(report).unwrap();
        let mut counts = LineCounts::default();
        report.files.into_iter().for_each(|file| counts.add(file));
        assert_eq!(counts.lines, BTreeMap::from([(2, 0), (3, 4)]));
        assert_eq!(counts.skewed, BTreeSet::from([2, 3]));
        assert_eq!(counts.functions["f"].entered, 0);
    }

    const PROGRAM: &str = r"
static inline int half(int n)
{
	return n / 2;
}

int steps(int n)
{
	int all = 0;
	while (n > 1) {
		n = half(n);
		all++;
	}
	if (n < 0)
		__builtin_abort();
	return all;
}

int main(void)
{
	return steps(16) != 4;
}
";

    /// Compiles and runs a real program with gcc, and reads its counters here and with gcov.
    #[tokio::test]
    async fn counts_of_a_real_program() {
        let folder = tempfile::tempdir().unwrap();
        let run = |program: &str, args: &[&str]| {
            let status =
                std::process::Command::new(program).args(args).current_dir(folder.path()).status().unwrap();
            assert!(status.success(), "{program} {args:?}");
        };
        fs_err::create_dir(folder.path().join("mm")).unwrap();
        fs_err::write(folder.path().join("mm/steps.c"), PROGRAM).unwrap();
        let mut compile: Vec<&str> = crate::kernel::COUNTING_OPTIONS.split(' ').collect();
        compile.extend(["-O2", "-c", "mm/steps.c", "-o", "mm/steps.o"]);
        run("gcc", &compile);
        run("gcc", &["-fprofile-arcs", "mm/steps.o", "-o", "steps"]);
        run("./steps", &[]);
        let gcda = fs_err::read(folder.path().join("mm/steps.gcda")).unwrap();
        let sources = ["mm/steps.c".to_owned()];
        let counted = async |objects: &Objects| {
            line_counts(folder.path(), &sources, objects, &sources, &CancellationToken::new()).await.unwrap()
                ["mm/steps.c"]
                .clone()
        };

        let nothing = counted(&Objects::default()).await;
        assert!(nothing.lines.values().all(|count| *count == 0));
        // Unlike the kernel, a program also writes a summary, and omits counters that are all zero.
        let summary = gcda.windows(4).position(|tag| tag == 0xa100_0000_u32.to_le_bytes());
        let mut plain = gcda.clone();
        if let Some(at) = summary {
            let length = u32::from_le_bytes(gcda[at + 4..at + 8].try_into().unwrap());
            let bytes = if major_of(&gcda) >= 12 { length } else { length * 4 };
            plain.drain(at..at + 8 + usize::try_from(bytes).unwrap());
        }
        if plain.ends_with(&[0; 4]) {
            plain.truncate(plain.len() - 4);
        }
        let counters = Counters::parse(&plain).unwrap();
        let objects = Objects([("mm/steps.c".to_owned(), counters)].into());
        let twice = {
            let mut twice = objects.clone();
            twice.add(&objects);
            twice
        };
        for (objects, times) in [(objects, 1), (twice, 2)] {
            let counts = counted(&objects).await;
            let line = |text: &str| {
                let number = PROGRAM.lines().position(|line| line.contains(text)).unwrap() + 1;
                counts.lines.get(&u32::try_from(number).unwrap()).copied()
            };
            assert_eq!(line("all++"), Some(4 * times));
            assert_eq!(line("abort"), Some(0));
            assert_eq!(line("return n / 2"), Some(4 * times));
            assert_eq!(line("while (n > 1) {"), Some(5 * times));
            assert_eq!(line("if (n < 0)"), Some(times));
            assert_eq!(line("int steps"), Some(times));
            let steps = counts.functions["steps"];
            assert_eq!((steps.entered, steps.start), (times, 7));
        }
    }

    fn major_of(gcda: &[u8]) -> u32 {
        let version = u32::from_le_bytes(gcda[4..8].try_into().unwrap()).to_be_bytes();
        u32::from(version[0] - b'A') * 10 + u32::from(version[1] - b'0')
    }

    #[test]
    fn the_compiler_names_files_by_their_place() {
        assert!(is("/cache/trees/x/src/mm/slub.c", "mm/slub.c"));
        assert!(is("./include/linux/mm.h", "include/linux/mm.h"));
        assert!(is("mm/slub.c", "mm/slub.c"));
        assert!(!is("/src/hmm/slub.c", "mm/slub.c"));
    }
}

//! Finds the cause of a failed build in make's output.

use std::path::Path;
use std::sync::LazyLock;

use hotplug_side::Side;
use regex::Regex;

use crate::Error;
use crate::error::FailedBuild;

use super::command;

/// Number of lines of a compiler's message that are shown. The log has the rest.
const SHOWN: usize = 14;

/// Error lines of GCC, clang and the linker: `file:line:column: error: ...`,
/// `ld: file.o: undefined reference ...`.
static ERROR: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:\S+:\d+:(?:\d+:)? (?:fatal )?error: |(?:\S*ld: )?.*(?:undefined reference to|multiple definition of) |\S*ld: .*error|.*internal compiler error: )")
        .expect("a constant")
});

/// The lines of the first error, with paths relative to the source.
fn first_error(log: &str, source: &Path) -> Option<Vec<String>> {
    let prefix = format!("{}/", source.display());
    let lines: Vec<&str> = log.lines().collect();
    let at = lines.iter().position(|line| ERROR.is_match(line))?;
    // GCC names the function on the line before.
    let from = if at > 0 && lines[at - 1].contains(": In function ") { at - 1 } else { at };
    let is_make =
        |line: &str| line.starts_with("make") || line.starts_with("  ") && kbuild_step(line).is_some();
    let block = lines[from..].iter().take_while(|line| !is_make(line)).take(SHOWN);
    Some(block.map(|line| line.replace(&prefix, "")).collect())
}

/// The command and object of a line such as `  CC      mm/memory.o`.
pub(crate) fn kbuild_step(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix("  ")?;
    if rest.starts_with(' ') {
        return None;
    }
    let (step, object) = rest.split_once(' ')?;
    let upper = step.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    // GCC shows source lines as `  174 |  text`.
    (upper && step.starts_with(|first: char| first.is_ascii_uppercase())).then(|| (step, object.trim_start()))
}

/// The error for a failed make. `what` names the kernel of `side`, and `kept` is the path of the
/// log.
pub(crate) fn failed_make(side: Side, what: &str, log: &str, source: &Path, kept: &Path) -> Error {
    let tail = || {
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(SHOWN)..].join("\n")
    };
    let build = |first: &str, lines: &str| FailedBuild {
        side,
        first: first.to_owned(),
        lines: lines.lines().map(str::to_owned).collect(),
        log: kept.to_owned(),
    };
    let see = format!("the whole log is {}", kept.display());
    if let Some(line) = log.lines().find(|line| line.contains("No space left on device")) {
        return command::disk_full(line);
    }
    if log.contains("Killed signal terminated program") {
        return Error::infrastructure(format!(
            "the compiler was killed while it built {what}, possibly for lack of memory"
        ))
        .detail(tail())
        .help(format!("free some memory, or build with fewer jobs; {see}"));
    }
    let missing = log.lines().find(|line| {
        line.ends_with(": not found")
            || ["gelf.h", "libelf.h", "openssl/", "ncurses.h"]
                .iter()
                .any(|header| line.contains("fatal error: ") && line.contains(header))
    });
    if let Some(line) = missing {
        return Error::user(format!("a tool that kernel builds need is not installed: {}", line.trim()))
            .help(format!("apt-get install build-essential flex bison bc libelf-dev libssl-dev; {see}"));
    }
    let Some(block) = first_error(log, source) else {
        let failed = build("make failed", &tail());
        return Error::user(format!("make failed on {what}")).detail(tail()).help(see).of_build(failed);
    };
    let first = block.iter().find(|line| ERROR.is_match(line)).cloned().unwrap_or_default();
    let block = block.join("\n");
    Error::user(format!("{what} does not compile: {first}"))
        .detail(&block)
        .help(format!("correct the code; {see}"))
        .of_build(build(&first, &block))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
  CC      mm/swap.o
/c/src/mm/memory_hotplug.c: In function 'mem_hotplug_begin':
/c/src/mm/memory_hotplug.c:174:9: error: 'nonsense' undeclared (first use in this function)
  174 |         nonsense;
      |         ^~~~~~~~
  CC      mm/util.o
make[3]: *** [scripts/Makefile.build:250: mm/memory_hotplug.o] Error 1
";

    fn error(log: &str) -> Error {
        failed_make(Side::After, "the after kernel", log, Path::new("/c/src"), Path::new("/f/x.log"))
    }

    #[test]
    fn shows_the_first_error_only() {
        insta::assert_snapshot!(error(LOG), @r"
        the after kernel does not compile: mm/memory_hotplug.c:174:9: error: 'nonsense' undeclared (first use in this function)
            mm/memory_hotplug.c: In function 'mem_hotplug_begin':
            mm/memory_hotplug.c:174:9: error: 'nonsense' undeclared (first use in this function)
              174 |         nonsense;
                  |         ^~~~~~~~
          help: correct the code; the whole log is /f/x.log
        ");
    }

    #[test]
    fn knows_whose_fault_it_was() {
        assert_eq!(error(LOG).exit_status(), 2);
        let failed = error(LOG).failed_build().cloned().unwrap();
        assert_eq!((failed.side, failed.lines.len()), (Side::After, 4));
        assert!(failed.first.starts_with("mm/memory_hotplug.c:174:9: error: "), "{failed:?}");
        for ours in ["fatal error: x: No space left on device\n", "/bin/sh: 1: flex: not found\n"] {
            assert_eq!(error(ours).failed_build(), None, "the kernel is not at fault: {ours}");
        }
        assert_eq!(error("fatal error: error writing to x.s: No space left on device\n").exit_status(), 4);
        assert_eq!(error("gcc: fatal error: Killed signal terminated program cc1\n").exit_status(), 4);
        let tool = error("/bin/sh: 1: flex: not found\n");
        assert!(tool.to_string().contains("flex: not found"), "{tool}");
        let link = error("ld: mm/x.o: in function `f':\nx.c:(.text+0x1): undefined reference to `g'\n");
        assert!(link.to_string().contains("undefined reference to `g'"), "{link}");
        assert!(error("what\n").to_string().starts_with("make failed on the after kernel"));
    }

    #[test]
    fn reads_kbuild_steps() {
        assert_eq!(kbuild_step("  CC      mm/swap.o"), Some(("CC", "mm/swap.o")));
        assert_eq!(kbuild_step("      |    ^"), None);
        assert_eq!(kbuild_step("  174 |  nonsense;"), None);
    }
}

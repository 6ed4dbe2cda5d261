//! The variables of the user for the kernel's `make`, and the compiler and linker that follow from
//! them.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use tokio_util::sync::CancellationToken;

use crate::{Error, Result};

use super::command::{self, Tool};

/// Variables that the harness sets itself.
const OURS: [&str; 6] = ["ARCH", "SRCARCH", "O", "KBUILD_OUTPUT", "KBUILD_EXTMOD", "M"];

/// A variable on the command line of the kernel's `make`, such as `LLVM=1`
/// (Documentation/kbuild/kbuild.rst).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variable {
    name: String,
    value: String,
}

impl Variable {
    /// A variable that the harness sets itself.
    pub(super) fn own(name: &str, value: &str) -> Self {
        Self { name: name.to_owned(), value: value.to_owned() }
    }
}

impl FromStr for Variable {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |what: String| Error::user(what).help("give a variable of make, such as --make LLVM=1");
        let Some((name, value)) = text.split_once('=') else {
            return Err(wrong(format!("`{text}` is no variable of make")));
        };
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
        if !is_name || value.contains(char::is_control) {
            return Err(wrong(format!("`{}` is no variable of make", text.escape_debug())));
        }
        if OURS.contains(&name) {
            return Err(wrong(format!("hotplug sets {name} itself")));
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

/// The compiler and the linker of a build, by the first lines of their `--version`. Both are empty
/// if nothing is built.
#[derive(Debug, Clone, Default)]
pub(super) struct Toolchain {
    pub(super) compiler: String,
    pub(super) linker: String,
}

impl Toolchain {
    /// Asks the programs that the kernel's `make` would use. Fails with a user error if one does
    /// not work.
    pub(super) async fn ask(variables: &[Variable], cancel: &CancellationToken) -> Result<Self> {
        let (compiler, linker) = programs(variables);
        let (compiler, linker) =
            tokio::try_join!(first_line(&compiler, cancel), first_line(&linker, cancel))?;
        Ok(Self { compiler, linker })
    }

    /// Whether the compiler is clang, which has other options and other counters than gcc.
    pub(super) fn is_clang(&self) -> bool {
        self.compiler.contains("clang")
    }
}

/// The compiler and the linker, as the kernel's top Makefile determines them.
fn programs(variables: &[Variable]) -> (String, String) {
    // make takes the last assignment of its command line.
    let value = |name: &str| {
        variables.iter().rfind(|one| one.name == name).map(|one| one.value.as_str()).filter(|v| !v.is_empty())
    };
    let cross = value("CROSS_COMPILE").unwrap_or_default();
    let (compiler, linker) = match value("LLVM") {
        Some(llvm) => {
            // A suffix begins with a dash, and a prefix ends with a slash
            // (Documentation/kbuild/llvm.rst).
            let prefix = if llvm.ends_with('/') { llvm } else { "" };
            let suffix = if llvm.starts_with('-') { llvm } else { "" };
            (format!("{prefix}clang{suffix}"), format!("{prefix}ld.lld{suffix}"))
        }
        None => (format!("{cross}gcc"), format!("{cross}ld")),
    };
    (value("CC").map_or(compiler, str::to_owned), value("LD").map_or(linker, str::to_owned))
}

/// The first line that `program --version` prints. The program may have words of its own, such as
/// `ccache gcc`.
async fn first_line(program: &str, cancel: &CancellationToken) -> Result<String> {
    let mut words = program.split_whitespace();
    let tool = Tool::new(words.next().unwrap_or_default(), Path::new("/")).args(words).arg("--version");
    let wrong = |said: &str| {
        Error::user(format!("{program} does not work: {said}"))
            .help("install it, or name another one: --make CC=PROGRAM")
    };
    let said = match command::capture(tool, cancel).await {
        Err(error) if error.kind() == crate::ErrorKind::Interrupted => return Err(error),
        Err(error) => return Err(wrong(&error.in_one_line())),
        Ok(said) => said.ok(wrong)?,
    };
    Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(words: &[&str]) -> Vec<Variable> {
        words.iter().map(|word| word.parse().unwrap()).collect()
    }

    #[test]
    fn the_variables_determine_the_compiler() {
        let programs = |words: &[&str]| {
            let (compiler, linker) = programs(&variables(words));
            format!("{compiler} {linker}")
        };
        assert_eq!(programs(&["W=1"]), "gcc ld");
        assert_eq!(programs(&["LLVM=1"]), "clang ld.lld");
        assert_eq!(programs(&["LLVM=-15"]), "clang-15 ld.lld-15");
        assert_eq!(programs(&["LLVM=/opt/llvm/bin/"]), "/opt/llvm/bin/clang /opt/llvm/bin/ld.lld");
        assert_eq!(programs(&["CC=gcc-11", "CC=ccache gcc-12"]), "ccache gcc-12 ld");
        assert_eq!(
            programs(&["CROSS_COMPILE=x86_64-linux-gnu-"]),
            "x86_64-linux-gnu-gcc x86_64-linux-gnu-ld"
        );
    }

    #[test]
    fn what_is_no_variable_is_refused() {
        for (word, fault) in [
            ("bzImage", "is no variable"),
            ("=1", "is no variable"),
            ("A B=1", "is no variable"),
            ("1A=1", "is no variable"),
            ("A=1\n2", "is no variable"),
            ("O=/tmp", "hotplug sets O itself"),
            ("ARCH=arm64", "hotplug sets ARCH itself"),
        ] {
            let error = word.parse::<Variable>().unwrap_err();
            assert!(error.to_string().contains(fault), "{error}");
            assert_eq!(error.exit_status(), 2);
        }
    }

    #[tokio::test]
    async fn a_compiler_that_is_not_there_is_named() {
        let asked = Toolchain::ask(&variables(&["CC=no-such-compiler"]), &CancellationToken::new()).await;
        let error = asked.unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains("no-such-compiler does not work"), "{error}");
    }
}

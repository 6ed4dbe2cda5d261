//! Config fragments, and the check that the final .config has every option that they set.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::arch::{Arch, Architecture};
use crate::{Error, Result};

use super::base::{Base, Basis};
use super::kconfig;
use super::toolchain::Variable;

/// The harness's own fragment, which is applied over `make tinyconfig`.
const DEFAULT_FRAGMENT: &str = include_str!("../../../guest-images/configs/base.config");

/// The fragments over the default one, by architecture: what its machines have, and without what
/// those of x86 have.
const OTHER_FRAGMENTS: &[(Architecture, &str, &str)] = &[(
    Architecture::Power,
    "guest-images/configs/ppc64le.config",
    include_str!("../../../guest-images/configs/ppc64le.config"),
)];

/// The fragment over a configuration that is not the harness's own.
const NEEDED_FRAGMENT: &str = include_str!("../../../guest-images/configs/needed.config");

/// The fragment that adds the code that registers callbacks of hotplug.
const WIDE_FRAGMENT: &str = include_str!("../../../guest-images/configs/wide.config");

/// The name of that fragment.
const WIDE: &str = "guest-images/configs/wide.config";

/// The fragment that adds and removes options for the kernels of the latency analysis.
const TIMING_FRAGMENT: &str = include_str!("../../../guest-images/configs/timing.config");

/// The fragment for the kernels of the overlap analysis.
const OVERLAP_FRAGMENT: &str = include_str!("../../../guest-images/configs/overlap.config");

/// The fragment for kernels that measure how long locks are held.
const LOCK_STAT_FRAGMENT: &str = include_str!("../../../guest-images/configs/lock-stat.config");

/// The fragment for kernels whose vmcores are read, and its name.
const ALL_TYPES_FRAGMENT: &str = include_str!("../../../guest-images/configs/debug-info.config");
const ALL_TYPES: &str = "guest-images/configs/debug-info.config";

/// Options without which the harness cannot judge a kernel, by name without `CONFIG_`. A source
/// that does not define another option is configured without it, because options come and go
/// between releases: 7.3 has no `PROC_SYSCTL`.
const REQUIRED: &[&str] = &[
    // What is judged.
    "MEMORY_HOTPLUG",
    "MEMORY_HOTREMOVE",
    "HOTPLUG_CPU",
    "PROVE_LOCKING",
    // The start of the agent, and its channels to the host.
    "BLK_DEV_INITRD",
    "RD_GZIP",
    "BINFMT_ELF",
    "PRINTK",
    "VIRTIO_PCI",
    "VIRTIO_CONSOLE",
    "NET",
    "UNIX",
    "EPOLL",
    "SIGNALFD",
    "TIMERFD",
    "SYSFS",
    "PROC_FS",
    "DEVTMPFS",
];

/// Options that print reports when something is wrong. A kernel without one can be judged, but not
/// by what that option would have seen.
const CHECKERS: &[&str] = &["PROVE_LOCKING", "DEBUG_ATOMIC_SLEEP", "DEBUG_LIST", "DETECT_HUNG_TASK"];

/// A fragment: lines of `CONFIG_NAME=value` and `# CONFIG_NAME is not set`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fragment {
    /// The name of the fragment's file, for messages.
    name: String,
    /// The fragment's text.
    text: String,
}

/// Fragments over `make tinyconfig` or another base, in order. If two fragments set the same
/// option, the later one wins. And the variables with which `make` is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    arch: Architecture,
    base: Base,
    fragments: Vec<Fragment>,
    variables: Vec<Variable>,
}

impl Default for Config {
    fn default() -> Self {
        Self::of(Architecture::default())
    }
}

/// One option that a fragment sets.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted<'a> {
    value: &'a str,
    fragment: &'a str,
    line: usize,
}

impl Config {
    /// The harness's own configuration for this architecture.
    pub fn of(arch: Architecture) -> Self {
        Self::bare(arch).with("guest-images/configs/base.config", DEFAULT_FRAGMENT).with_own_of_arch()
    }

    /// With the fragment of the architecture, if it has one.
    fn with_own_of_arch(self) -> Self {
        let arch = self.arch;
        let others = OTHER_FRAGMENTS.iter().filter(|(other, ..)| *other == arch);
        others.fold(self, |config, (_, name, text)| config.with(name, text))
    }

    /// `make tinyconfig` without fragments.
    pub fn bare(arch: Architecture) -> Self {
        Self { arch, base: Base::Tiny, fragments: Vec::new(), variables: Vec::new() }
    }

    /// Another configuration, with what the harness cannot do without: `name` is a target of the
    /// source's `make`, such as `x86_64_defconfig`, or a file. Fails with a user error if it is
    /// neither.
    pub fn over(arch: Architecture, name: &str) -> Result<Self> {
        let base = Base::parse(name)?;
        let config = Self { base, ..Self::bare(arch) };
        Ok(config.with("guest-images/configs/needed.config", NEEDED_FRAGMENT).with_own_of_arch())
    }

    /// With these variables for the kernel's `make`, such as `LLVM=1`. Fails with a user error if
    /// one is none, or is the harness's own.
    pub fn with_variables(self, words: &[String]) -> Result<Self> {
        let variables = words.iter().map(|word| word.parse()).collect::<Result<_>>()?;
        Ok(Self { variables, ..self })
    }

    /// Adds the fragments in `files`.
    pub fn with_files(self, files: &[impl AsRef<Path>]) -> Result<Self> {
        let mut this = self;
        for file in files {
            let file = file.as_ref();
            let text = fs_err::read_to_string(file).map_err(|error| {
                Error::user(format!("cannot read the config fragment: {error}"))
                    .help("check the path given to --config")
            })?;
            this.fragments.push(Fragment { name: file.display().to_string(), text });
        }
        this.wanted()?;
        Ok(this)
    }

    /// With more of the code that registers callbacks of hotplug.
    #[must_use]
    pub fn wide(self) -> Self {
        self.with(WIDE, WIDE_FRAGMENT)
    }

    /// With the types of all structures in the debug information.
    #[must_use]
    pub fn with_all_types(self) -> Self {
        self.with(ALL_TYPES, ALL_TYPES_FRAGMENT)
    }

    /// Without the fragments of [`Config::wide`] and [`Config::with_all_types`]. The kernels of
    /// analyses that need another configuration are narrow: what the wide ones add is beside their
    /// question, and would take minutes to build.
    fn narrow(mut self) -> Self {
        self.fragments.retain(|fragment| fragment.name != WIDE && fragment.name != ALL_TYPES);
        self
    }

    /// For the kernels of the latency analysis: with a function tracer, and without lockdep and
    /// similar checkers, which take more time than the code that they check.
    #[must_use]
    pub fn timed(self) -> Self {
        self.narrow().with("guest-images/configs/timing.config", TIMING_FRAGMENT)
    }

    /// For the kernels of the overlap analysis: the options of the judged kernels, and a function
    /// tracer.
    #[must_use]
    pub fn traced(self) -> Self {
        self.narrow().with("guest-images/configs/overlap.config", OVERLAP_FRAGMENT)
    }

    /// For kernels that measure how long locks are held: without lockdep's checks
    /// (`CONFIG_PROVE_LOCKING`).
    #[must_use]
    pub fn counting_locks(self) -> Self {
        self.narrow().with("guest-images/configs/lock-stat.config", LOCK_STAT_FRAGMENT)
    }

    fn with(mut self, name: &str, text: &str) -> Self {
        self.fragments.push(Fragment { name: name.to_owned(), text: text.to_owned() });
        self
    }

    /// The configuration under the fragments.
    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    /// The architecture of the kernels.
    pub(super) fn arch(&self) -> &'static Arch {
        self.arch.table()
    }

    /// The variables for the kernel's `make`: those that select the architecture, if it is not that
    /// of the machine itself, and the user's.
    pub(super) fn variables(&self) -> Vec<Variable> {
        let mut all = Vec::new();
        if let Some(cross) = self.arch().cross {
            all.push(Variable::own("ARCH", self.arch().kernel));
            let prefix = cross.gcc.trim_end_matches("gcc");
            all.extend((!self.arch.is_native()).then(|| Variable::own("CROSS_COMPILE", prefix)));
        }
        all.extend(self.variables.iter().cloned());
        all
    }

    /// All that determines a build, apart from the source and the tools: a kernel's id and its
    /// object folder depend on it.
    pub(super) fn key(&self) -> String {
        let mut key = self.text();
        if self.base != Base::Tiny {
            let _ = writeln!(key, "base {}", blake3::hash(self.base.key().as_bytes()).to_hex());
        }
        for variable in self.variables() {
            let _ = writeln!(key, "make {variable}");
        }
        key
    }

    /// What the fragments changed in a base that is not the harness's own. `plain` is the
    /// configuration that the base alone gave.
    pub(super) fn basis(&self, plain: &str, result: &str) -> Result<Option<Basis>> {
        Ok(Basis::of(&self.base, plain, result, self.wanted()?.into_keys()))
    }

    /// The options of all fragments as one text, which is appended to the base's. The text has no
    /// comments: it is a part of [`Config::key`], and a reworded comment must not rebuild every
    /// kernel.
    pub(crate) fn text(&self) -> String {
        let lines = self.fragments.iter().flat_map(|fragment| fragment.text.lines());
        lines
            .filter(|line| !matches!(parse_line(line), Line::Empty))
            .map(|line| line.trim().to_owned() + "\n")
            .collect()
    }

    /// The value of each option in the last fragment that sets it, by name without `CONFIG_`.
    fn wanted(&self) -> Result<BTreeMap<&str, Wanted<'_>>> {
        let mut all = BTreeMap::new();
        for fragment in &self.fragments {
            for (index, text) in fragment.text.lines().enumerate() {
                let line = index + 1;
                match parse_line(text) {
                    Line::Option(name, value) => {
                        all.insert(name, Wanted { value, fragment: &fragment.name, line });
                    }
                    Line::Empty => {}
                    Line::Bad => {
                        return Err(Error::user(format!("{}:{line}: not a config line", fragment.name))
                            .detail(text)
                            .help("write CONFIG_NAME=y, CONFIG_NAME=n or `# CONFIG_NAME is not set`"));
                    }
                }
            }
        }
        Ok(all)
    }

    /// Checks each wanted option against the final .config. Returns the wanted options that
    /// `source` does not define, by name without `CONFIG_`.
    ///
    /// Fails with a user error if Kconfig dropped an option that the source defines, or if the
    /// source does not define one of [`REQUIRED`] or of the architecture's.
    pub(crate) fn check(&self, dot_config: &str, source: &Path) -> Result<Vec<String>> {
        let got = options(dot_config);
        let mut wrong = Vec::new();
        for (name, wanted) in self.wanted()? {
            let has = got.get(name).copied().unwrap_or("n");
            // An empty text is what an option has without its dependencies, too.
            let is_met = has == wanted.value || has == "n" && wanted.value == "\"\"";
            if !is_met {
                wrong.push((name, wanted, has));
            }
        }
        if wrong.is_empty() {
            return Ok(Vec::new());
        }
        let entries =
            kconfig::find(source, self.arch(), &wrong.iter().map(|(name, ..)| *name).collect::<Vec<_>>());
        let is_required =
            |name: &&str| REQUIRED.contains(name) || self.arch().required_options.contains(name);
        let (wrong, unknown): (Vec<_>, Vec<_>) =
            wrong.into_iter().partition(|(name, ..)| entries.contains_key(*name) || is_required(name));
        if wrong.is_empty() {
            return Ok(unknown.into_iter().map(|(name, ..)| name.to_owned()).collect());
        }
        let mut detail = String::new();
        for (name, wanted, has) in &wrong {
            let became = if *has == "n" { "not set".to_owned() } else { format!("={has}") };
            let Wanted { value, fragment, line } = wanted;
            let _ = writeln!(detail, "{fragment}:{line}: CONFIG_{name}={value} became {became}");
            for reason in kconfig::reasons(entries.get(*name).map_or(&[], Vec::as_slice), &got) {
                let _ = writeln!(detail, "    {reason}");
            }
        }
        let names: Vec<_> = wrong.iter().map(|(name, ..)| format!("CONFIG_{name}")).collect();
        Err(Error::user(format!("this kernel cannot be configured with {}", names.join(", ")))
            .detail(detail)
            .help("set its dependencies in your own fragment (--config FILE), or override the line there"))
    }
}

enum Line<'a> {
    Option(&'a str, &'a str),
    Empty,
    Bad,
}

fn parse_line(text: &str) -> Line<'_> {
    let text = text.trim();
    if let Some(name) = text.strip_prefix("# CONFIG_").and_then(|rest| rest.strip_suffix(" is not set")) {
        return Line::Option(name, "n");
    }
    if text.is_empty() || text.starts_with('#') {
        return Line::Empty;
    }
    match text.strip_prefix("CONFIG_").and_then(|rest| rest.split_once('=')) {
        Some((name, value))
            if !value.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') =>
        {
            Line::Option(name, value)
        }
        _ => Line::Bad,
    }
}

/// The options of [`CHECKERS`] that a .config does not set, by name without `CONFIG_`.
pub(super) fn missing_checkers(dot_config: &str) -> Vec<String> {
    let there = options(dot_config);
    CHECKERS.iter().filter(|name| !there.contains_key(**name)).map(|name| (*name).to_owned()).collect()
}

/// The options that a .config sets, by name without `CONFIG_`.
pub(super) fn options(dot_config: &str) -> BTreeMap<&str, &str> {
    dot_config
        .lines()
        .filter_map(|line| match parse_line(line) {
            Line::Option(name, value) if value != "n" => Some((name, value)),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(texts: &[&str]) -> Config {
        let fragment =
            |(index, text): (usize, &&str)| Fragment { name: format!("f{index}"), text: (*text).to_owned() };
        Config {
            fragments: texts.iter().enumerate().map(fragment).collect(),
            ..Config::bare(Architecture::X86)
        }
    }

    fn source(kconfig: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("Kconfig"), kconfig).unwrap();
        folder
    }

    #[test]
    fn the_default_fragment_is_well_formed() {
        assert!(Config::default().wanted().unwrap().contains_key("MEMORY_HOTREMOVE"));
        assert!(Config::default().wide().wanted().unwrap().contains_key("ZRAM"));
    }

    #[test]
    fn kernels_with_another_configuration_are_narrow() {
        assert_eq!(Config::default().wide().timed(), Config::default().timed());
        assert_ne!(Config::default().wide(), Config::default());
        let typed = Config::default().with_all_types();
        assert_eq!(typed.wanted().unwrap()["DEBUG_INFO_REDUCED"].value, "n");
        assert_eq!(typed.timed(), Config::default().timed());
    }

    #[test]
    fn checkers_that_a_kernel_lacks_are_named() {
        assert_eq!(
            missing_checkers("CONFIG_DEBUG_LIST=y\nCONFIG_DETECT_HUNG_TASK=y\n"),
            ["PROVE_LOCKING", "DEBUG_ATOMIC_SLEEP"]
        );
        assert!(missing_checkers(DEFAULT_FRAGMENT).is_empty());
    }

    #[test]
    fn the_later_fragment_wins() {
        let config = config(&["CONFIG_A=y\nCONFIG_B=16", "# CONFIG_A is not set\n"]);
        let empty = source("");
        let none: [&str; 0] = [];
        assert_eq!(config.check("# CONFIG_A is not set\nCONFIG_B=16\n", empty.path()).unwrap(), none);
        assert_eq!(config.check("CONFIG_B=16\n", empty.path()).unwrap(), none);
    }

    #[test]
    fn an_option_that_the_source_does_not_define_is_left_out() {
        let folder = source("config A\n\tbool \"a\"\n");
        let config = config(&["CONFIG_A=y\nCONFIG_GONE=y\n# CONFIG_NEVER is not set\nCONFIG_B=16\n"]);
        assert_eq!(config.check("CONFIG_A=y\n", folder.path()).unwrap(), ["B", "GONE"]);
        // An option that the source defines is not left out.
        let error = config.check("", folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("this kernel cannot be configured with CONFIG_A\n"), "{error}");
    }

    #[test]
    fn the_required_options_are_those_of_the_default_fragment() {
        let wanted = Config::default();
        let wanted = wanted.wanted().unwrap();
        let over = Config::over(Architecture::X86, "defconfig").unwrap();
        let over = over.wanted().unwrap();
        for name in REQUIRED {
            for wanted in [&wanted, &over] {
                assert!(wanted.get(name).is_some_and(|option| option.value == "y"), "{name}");
            }
        }
    }

    #[test]
    fn a_key_names_the_base_and_the_variables() {
        let own = Config::default();
        assert_eq!(own.key(), own.text());
        let over = Config::over(Architecture::X86, "x86_64_defconfig").unwrap();
        let other = Config::over(Architecture::X86, "i386_defconfig").unwrap();
        assert_eq!(over.text(), other.text());
        assert_ne!(over.key(), other.key());
        let llvm = over.clone().with_variables(&["LLVM=1".into()]).unwrap();
        assert_eq!(llvm.key(), over.key() + "make LLVM=1\n");
    }

    #[test]
    fn an_empty_text_needs_no_dependencies() {
        let config = config(&["CONFIG_KEYS=\"\"\n"]);
        let source = source("config KEYS\n\tstring \"a\"\n");
        assert!(config.check("", source.path()).unwrap().is_empty());
        assert!(config.check("CONFIG_KEYS=\"a.pem\"\n", source.path()).is_err());
    }

    #[test]
    fn an_option_not_honoured_is_named_with_its_place_and_reason() {
        let folder = source("config A\n\tbool \"a\"\n\tdepends on C && !D\n\nconfig B\n\tbool\n");
        let error =
            config(&["\nCONFIG_A=y\n", "CONFIG_B=y\nCONFIG_SYSFS=y"]).check("CONFIG_D=y\n", folder.path());
        let error = error.unwrap_err();
        assert_eq!(error.exit_status(), 2);
        insta::assert_snapshot!(error, @r"
        this kernel cannot be configured with CONFIG_A, CONFIG_B, CONFIG_SYSFS
            f0:2: CONFIG_A=y became not set
                Kconfig:1: depends on C && !D (C=n, D=y)
            f1:1: CONFIG_B=y became not set
                Kconfig:5: has no prompt: only other options can select it
            f1:2: CONFIG_SYSFS=y became not set
                no Kconfig file of this source defines it
          help: set its dependencies in your own fragment (--config FILE), or override the line there
        ");
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        fs_err::write(&file, "\nFOO=y\n").unwrap();
        let error = Config::bare(Architecture::X86).with_files(&[&file]).unwrap_err().to_string();
        assert!(error.contains("/f:2: not a config line"), "{error}");
    }
}

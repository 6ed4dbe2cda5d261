//! The configuration under the harness's fragments, and what the fragments changed in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::{Error, Result};

use super::config::options;

/// Targets of the kernel's `make` that configure without questions and without a folder of their
/// own (scripts/kconfig/Makefile).
const TARGETS: [&str; 5] = ["defconfig", "tinyconfig", "allnoconfig", "alldefconfig", "allyesconfig"];

/// The configuration under the fragments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Base {
    /// `make tinyconfig`, over which the harness lays all that its guests need.
    Tiny,
    /// Another target of the source's `make`, such as `x86_64_defconfig`.
    Target(String),
    /// A whole `.config`.
    File {
        /// Its path, for messages.
        name: String,
        /// Its contents.
        text: String,
    },
}

impl Base {
    /// The base that a user names: a file, or a target of `make`. Fails with a user error if it is
    /// neither.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let path = Path::new(text);
        if path.is_file() {
            let bytes = fs_err::read(path)
                .map_err(|error| Error::user(format!("cannot read the configuration: {error}")))?;
            return match String::from_utf8(bytes) {
                Ok(contents) if !options(&contents).is_empty() => {
                    Ok(Self::File { name: text.to_owned(), text: contents })
                }
                _ => Err(Error::user(format!("{text} is no kernel configuration: it sets no option"))
                    .help("give a whole .config, as make leaves it in an object folder")),
            };
        }
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        if plain && (text.ends_with("_defconfig") || TARGETS.contains(&text)) {
            return Ok(Self::Target(text.to_owned()));
        }
        Err(Error::user(format!("no file and no target of make that configures: {text}"))
            .help(format!("give a whole .config, X_defconfig of the source, or {}", TARGETS.join(", "))))
    }

    /// Its name, if it is not the harness's own.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Tiny => None,
            Self::Target(name) | Self::File { name, .. } => Some(name),
        }
    }

    /// All that determines what the base contains, apart from the source.
    pub(super) fn key(&self) -> &str {
        match self {
            Self::Tiny => "",
            Self::Target(name) => name,
            Self::File { text, .. } => text,
        }
    }

    /// Checks that `source` has the target for this architecture. Fails with a user error that
    /// names those it has.
    pub(super) fn check(&self, source: &Path, arch: &Arch) -> Result<()> {
        let Self::Target(name) = self else { return Ok(()) };
        let folder = source.join("arch").join(arch.kernel).join("configs");
        if TARGETS.contains(&name.as_str()) || folder.join(name).is_file() {
            return Ok(());
        }
        let mut others: Vec<_> = fs_err::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|file| file.ends_with("_defconfig"))
            .collect();
        others.sort();
        Err(Error::user(format!("this source has no {name}")).help(format!(
            "it has {}, and {}",
            others.join(", "),
            TARGETS.join(", ")
        )))
    }
}

/// What became of a configuration that is not the harness's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Basis {
    /// Its name: a file, or a target of `make`.
    pub name: String,
    /// The options that the fragments changed in it, such as `CONFIG_PROVE_LOCKING=y`, with the
    /// value before if there was one.
    pub changed: Vec<String>,
    /// The number of options that the file sets and that the source does not have, or whose
    /// dependencies are not met.
    pub dropped: usize,
    /// The number of options that are modules. They are not built.
    pub modules: usize,
}

impl Basis {
    /// Compares the configuration `plain`, which the base alone gave, with the final one. `wanted`
    /// are the names of the options that the fragments set.
    pub(super) fn of<'a>(
        base: &Base,
        plain: &str,
        result: &str,
        wanted: impl Iterator<Item = &'a str>,
    ) -> Option<Self> {
        let name = base.name()?.to_owned();
        let (plain, result) = (options(plain), options(result));
        let word = |value: Option<&&str>| value.map_or("n", |value| *value).to_owned();
        let changed = wanted.filter(|name| plain.get(name) != result.get(name)).map(|name| {
            let (was, is) = (word(plain.get(name)), word(result.get(name)));
            let before = if was == "n" { String::new() } else { format!(" (was {was})") };
            format!("CONFIG_{name}={is}{before}")
        });
        let changed = changed.collect();
        let set: BTreeMap<_, _> = match base {
            Base::File { text, .. } => options(text),
            _ => BTreeMap::new(),
        };
        Some(Self {
            name,
            changed,
            // Values of the toolchain (`CONFIG_CC_...`, `CONFIG_GCC_VERSION`) are not the user's.
            dropped: set.keys().filter(|name| !plain.contains_key(*name) && !is_of_the_tools(name)).count(),
            modules: result.values().filter(|value| **value == "m").count(),
        })
    }

    /// What became of the configuration, in one sentence.
    pub fn words(&self) -> String {
        let changed = match self.changed.as_slice() {
            [] => "nothing".to_owned(),
            some => some.join(", "),
        };
        let mut words = format!("laid over {}: {changed}", self.name);
        if self.dropped > 0 {
            let _ = write!(
                words,
                "; {} of its options are not in this source or lack what they need",
                self.dropped
            );
        }
        if self.modules > 0 {
            let _ = write!(words, "; {} modules are not built", self.modules);
        }
        words
    }
}

/// Whether an option describes the compiler and its companions, as `scripts/Kconfig.include` and
/// `init/Kconfig` find them.
fn is_of_the_tools(name: &str) -> bool {
    ["CC_", "GCC_", "CLANG_", "LD_", "AS_", "PAHOLE_", "RUSTC_", "TOOLS_", "HAVE_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_a_file_or_a_target() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        fs_err::write(&file, "CONFIG_A=y\n").unwrap();
        let file = file.to_str().unwrap();
        let base = Base::parse(file).unwrap();
        assert_eq!((base.name(), base.key()), (Some(file), "CONFIG_A=y\n"));
        assert_eq!(Base::parse("x86_64_defconfig").unwrap(), Base::Target("x86_64_defconfig".into()));
        for wrong in ["menuconfig", "../x_defconfig", "x86_64_defconfig O=/", "/no/such", ""] {
            let error = Base::parse(wrong).unwrap_err();
            assert_eq!(error.exit_status(), 2);
            assert!(error.to_string().contains("no target of make that configures"), "{error}");
        }
        fs_err::write(folder.path().join("picture"), [0xff, 0xd8]).unwrap();
        let error = Base::parse(folder.path().join("picture").to_str().unwrap()).unwrap_err();
        assert!(error.to_string().contains("is no kernel configuration"), "{error}");
    }

    #[test]
    fn a_source_names_the_targets_that_it_has() {
        let source = tempfile::tempdir().unwrap();
        let configs = source.path().join("arch/x86/configs");
        fs_err::create_dir_all(&configs).unwrap();
        fs_err::write(configs.join("x86_64_defconfig"), "").unwrap();
        Base::parse("x86_64_defconfig")
            .unwrap()
            .check(source.path(), crate::arch::Architecture::X86.table())
            .unwrap();
        Base::parse("defconfig")
            .unwrap()
            .check(source.path(), crate::arch::Architecture::X86.table())
            .unwrap();
        let error = Base::parse("my_defconfig")
            .unwrap()
            .check(source.path(), crate::arch::Architecture::X86.table())
            .unwrap_err();
        insta::assert_snapshot!(error, @r"
        this source has no my_defconfig
          help: it has x86_64_defconfig, and defconfig, tinyconfig, allnoconfig, alldefconfig, allyesconfig
        ");
    }

    #[test]
    fn what_was_laid_over_a_base_is_told() {
        let base = Base::File {
            name: "my.config".into(),
            text: "CONFIG_A=y\nCONFIG_GONE=y\nCONFIG_CC_X=y\nCONFIG_M=m\nCONFIG_V=m\n".into(),
        };
        let plain = "CONFIG_A=y\nCONFIG_M=m\nCONFIG_V=m\n";
        let result = "CONFIG_A=y\nCONFIG_L=y\nCONFIG_M=m\nCONFIG_V=y\n";
        let basis = Basis::of(&base, plain, result, ["A", "L", "V"].into_iter()).unwrap();
        assert_eq!(basis.changed, ["CONFIG_L=y", "CONFIG_V=y (was m)"]);
        assert_eq!((basis.dropped, basis.modules), (1, 1));
        assert_eq!(Basis::of(&Base::Tiny, "", "", [].into_iter()), None);
    }
}

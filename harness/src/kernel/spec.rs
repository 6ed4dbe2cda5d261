//! The two kernels of a comparison, as a user names them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::package::Package;
use super::request::{Change, PairRequest, Wanted};
use super::source::Source;
use crate::arch::Architecture;
use crate::{Error, Result};

/// The two kernels of a comparison. The default is the default source, unchanged, on both sides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PairSpec {
    /// The architecture. Null: that of the scenarios.
    pub arch: Option<Architecture>,
    /// Patches of the after kernel: files, mboxes or folders of a series, applied in order.
    pub patches: Vec<PathBuf>,
    /// Patches of both kernels. They are applied before `patches`.
    pub base_patches: Vec<PathBuf>,
    /// The source: a package such as `linux-source-6.1`, a tarball, a folder, or
    /// `repository@revision`. Null means the default source.
    pub source: Option<String>,
    /// Revision of the source's repository for the before kernel.
    pub before: Option<String>,
    /// Revision of the source's repository for the after kernel.
    pub after: Option<String>,
    /// A bzImage that is the before kernel.
    pub before_image: Option<PathBuf>,
    /// A bzImage that is the after kernel.
    pub after_image: Option<PathBuf>,
    /// A distribution's package that has the before kernel, or a folder with its files.
    pub before_package: Option<PathBuf>,
    /// The same of the after kernel.
    pub after_package: Option<PathBuf>,
    /// The vmlinux of the before image or package, or the package that has it.
    pub before_symbols: Option<PathBuf>,
    /// The same of the after side.
    pub after_symbols: Option<PathBuf>,
    /// Config fragments over the harness's own. The last fragment that sets an option wins.
    pub config: Vec<PathBuf>,
    /// The configuration under the fragments, in place of the harness's own: a target of the
    /// source's `make`, such as `x86_64_defconfig`, or a whole `.config`.
    pub defconfig: Option<String>,
    /// Variables for the kernel's `make`, such as `LLVM=1`.
    pub make: Vec<String>,
    /// Whether the harness's own config fragment is left out.
    pub no_default_config: bool,
    /// Whether the kernels are wide: the harness's own fragment is followed by `wide.config`, which
    /// builds more of the code that registers callbacks of hotplug.
    pub wide: bool,
    /// Whether the kernels have the types of all structures in their debug information, which
    /// crash(8) needs.
    pub full_debug_info: bool,
    /// What the harness chose for the user, one sentence each.
    pub notes: Vec<String>,
    /// What the user gave in place of a patch file that was made of it, such as a message id.
    #[serde(skip)]
    pub given_as: BTreeMap<PathBuf, String>,
    /// Number of parallel compilations. `None` means the number of processors. It does not affect
    /// the kernels.
    #[serde(skip)]
    pub jobs: Option<usize>,
}

impl PairSpec {
    /// Makes every path absolute, so that the spec has the same meaning in another working folder.
    #[must_use]
    pub fn absolute(self) -> Self {
        let path = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let all = |paths: Vec<PathBuf>| paths.into_iter().map(path).collect();
        // A name that is no path has the same meaning everywhere.
        let named = |text: String| {
            if Path::new(&text).exists() { path(text.into()).display().to_string() } else { text }
        };
        // A folder with the name of a package does not take its place.
        let source = |text: String| match Source::parse(&text) {
            Ok(Source::Package { .. }) | Err(_) => text,
            Ok(Source::Git { repo, revision }) => format!("{}@{revision}", path(repo).display()),
            Ok(Source::Tarball(file) | Source::Directory(file)) => path(file).display().to_string(),
        };
        Self {
            patches: all(self.patches),
            base_patches: all(self.base_patches),
            source: self.source.map(source),
            defconfig: self.defconfig.map(named),
            before_image: self.before_image.map(path),
            after_image: self.after_image.map(path),
            before_package: self.before_package.map(path),
            after_package: self.after_package.map(path),
            before_symbols: self.before_symbols.map(path),
            after_symbols: self.after_symbols.map(path),
            config: all(self.config),
            ..self
        }
    }

    /// The command-line arguments that name the pair for `hotplug kernel build` and
    /// `hotplug compare`: the patches, then the options.
    pub fn words(&self) -> (Vec<String>, Vec<String>) {
        let shown = |path: &PathBuf| path.display().to_string();
        let mut options = Vec::new();
        let mut option = |name: &str, value: Option<String>| {
            options.extend(value.into_iter().flat_map(|value| [format!("--{name}"), value]));
        };
        let other = self.arch.filter(|arch| !arch.is_default());
        option("arch", other.map(|arch| arch.to_string()));
        option("source", self.source.clone());
        option("before", self.before.clone());
        option("after", self.after.clone());
        option("before-image", self.before_image.as_ref().map(shown));
        option("after-image", self.after_image.as_ref().map(shown));
        option("before-package", self.before_package.as_ref().map(shown));
        option("after-package", self.after_package.as_ref().map(shown));
        option("before-symbols", self.before_symbols.as_ref().map(shown));
        option("after-symbols", self.after_symbols.as_ref().map(shown));
        for patch in &self.base_patches {
            option("base-patch", Some(shown(patch)));
        }
        for file in &self.config {
            option("config", Some(shown(file)));
        }
        option("defconfig", self.defconfig.clone());
        for variable in &self.make {
            option("make", Some(variable.clone()));
        }
        if self.no_default_config {
            options.push("--no-default-config".into());
        }
        if self.wide {
            options.push("--wide".into());
        }
        if self.full_debug_info {
            options.push("--full-debug-info".into());
        }
        (self.patches.iter().map(shown).collect(), options)
    }

    /// The pair that these arguments name. `run.json` stored them before it had this type.
    /// Arguments that are not options of this version are ignored, because the kernels are checked
    /// by their ids.
    pub(crate) fn of_words(words: Vec<String>) -> Self {
        let mut spec = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix("--") else {
                spec.patches.push(word.into());
                continue;
            };
            if let Some(switch) = match name {
                "no-default-config" => Some(&mut spec.no_default_config),
                "wide" => Some(&mut spec.wide),
                "full-debug-info" => Some(&mut spec.full_debug_info),
                _ => None,
            } {
                *switch = true;
                continue;
            }
            let value = words.next();
            let path = value.clone().map(PathBuf::from);
            match name {
                "arch" => spec.arch = value.and_then(|name| name.parse().ok()),
                "source" => spec.source = value,
                "before" => spec.before = value,
                "after" => spec.after = value,
                "before-image" => spec.before_image = path,
                "after-image" => spec.after_image = path,
                "before-package" => spec.before_package = path,
                "after-package" => spec.after_package = path,
                "before-symbols" => spec.before_symbols = path,
                "after-symbols" => spec.after_symbols = path,
                "base-patch" => spec.base_patches.extend(path),
                "config" => spec.config.extend(path),
                "defconfig" => spec.defconfig = value,
                "make" => spec.make.extend(value),
                _ => {}
            }
        }
        spec
    }

    /// The patches as the user gave them.
    pub fn patches_as_given(&self) -> Vec<String> {
        let name = |patch: &PathBuf| self.given_as.get(patch).cloned();
        self.patches.iter().map(|patch| name(patch).unwrap_or_else(|| patch.display().to_string())).collect()
    }

    /// Replaces a missing source, or `linux-source` without a version, by its full name if a source
    /// is needed. The default depends on the installed packages.
    pub fn with_source_named(mut self) -> Result<Self> {
        if self.given().iter().any(Option::is_none) {
            self.source = Some(self.parsed_source()?.with_version()?.to_string());
        }
        Ok(self)
    }

    /// The file of each side that is not built: an image or a package.
    pub(crate) fn given(&self) -> [Option<&Path>; 2] {
        [(&self.before_image, &self.before_package), (&self.after_image, &self.after_package)]
            .map(|(image, package)| image.as_deref().or(package.as_deref()))
    }

    /// Whether a kernel is built, with the harness's own configuration.
    pub fn is_of_the_harness(&self) -> bool {
        self.given().iter().any(Option::is_none) && !self.no_default_config && self.defconfig.is_none()
    }

    fn parsed_source(&self) -> Result<Source> {
        self.source.as_deref().map_or(Ok(Source::Package { version: None }), Source::parse)
    }

    /// The request for the two kernels. Fails with a user error if the source does not exist, has
    /// no revisions when `before` and `after` are given, or if a configuration or a fragment cannot
    /// be read.
    pub fn request(&self) -> Result<PairRequest> {
        let source = self.parsed_source()?;
        let (source, change) = match (&self.before, &self.after) {
            (Some(before), Some(after)) => (source.at(before)?, Change::Revision(after.clone())),
            (None, Some(after)) if self.given()[0].is_some() => (source.at(after)?, Change::Nothing),
            (None, Some(after)) => {
                return Err(Error::user(format!("{after} is to be compared, but with what?"))
                    .help("give the before revision, too"));
            }
            _ if self.patches.is_empty() => (source, Change::Nothing),
            _ => (source, Change::Patches(self.patches.clone())),
        };
        let mut request = PairRequest::new(source, change)?;
        for side in [&mut request.before, &mut request.after] {
            if let Wanted::Build { patches, .. } = side {
                patches.splice(..0, self.base_patches.iter().cloned());
            }
        }
        let sides = [
            (&mut request.before, &self.before_image, &self.before_package, &self.before_symbols),
            (&mut request.after, &self.after_image, &self.after_package, &self.after_symbols),
        ];
        for (side, image, package, symbols) in sides {
            match (image, package) {
                (Some(image), _) => {
                    *side = Wanted::Ready { image: image.clone(), symbols: symbols.clone() };
                }
                (None, Some(path)) => {
                    *side = Wanted::Packaged(Package { path: path.clone(), symbols: symbols.clone() });
                }
                (None, None) if symbols.is_some() => {
                    return Err(Error::user("symbols were given without an image or a package")
                        .help("a kernel that hotplug builds has its own"));
                }
                (None, None) => {}
            }
        }
        let arch = self.arch.unwrap_or_default();
        if self.wide && !arch.table().has_wide_kernels {
            return Err(Error::user(format!("there are no wide kernels for {arch}")).help("give --narrow"));
        }
        let base = match &self.defconfig {
            Some(name) => Config::over(arch, name)?,
            None if self.no_default_config => Config::bare(arch),
            None => Config::of(arch),
        };
        let base = if self.wide { base.wide() } else { base };
        let base = if self.full_debug_info { base.with_all_types() } else { base };
        request.config = base.with_files(&self.config)?.with_variables(&self.make)?;
        request.jobs = self.jobs;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_the_name_of_a_package_does_not_take_its_place() {
        // This test's folder is that of the crate, which all tests of the crate share.
        let name = "linux-source-0.0-shadow";
        let folder = std::env::current_dir().unwrap().join(name);
        fs_err::create_dir_all(&folder).unwrap();
        let spec = |source: &str| PairSpec { source: Some(source.into()), ..PairSpec::default() };
        let package = spec(name).absolute().source;
        let path = spec(&format!("./{name}")).absolute().source;
        fs_err::remove_dir(&folder).unwrap();
        assert_eq!(package.as_deref(), Some(name));
        assert!(Path::new(&path.unwrap()).is_absolute());
        assert!(spec(".@HEAD").absolute().source.unwrap().starts_with('/'));
    }

    #[test]
    fn words_name_the_same_pair_again() {
        let spec = PairSpec {
            arch: Some(Architecture::Power),
            patches: vec!["/a.patch".into(), "/series".into()],
            base_patches: vec!["/below.patch".into()],
            source: Some("linux-source-6.1".into()),
            before_image: Some("/bzImage".into()),
            after_package: Some("/linux-image.deb".into()),
            after_symbols: Some("/linux-image-dbg.deb".into()),
            config: vec!["/one.config".into(), "/two.config".into()],
            defconfig: Some("x86_64_defconfig".into()),
            make: vec!["LLVM=1".into(), "W=1".into()],
            no_default_config: true,
            wide: true,
            full_debug_info: true,
            ..PairSpec::default()
        };
        let (patches, options) = spec.words();
        assert_eq!(PairSpec::of_words([patches, options].concat()), spec);
        let revisions =
            PairSpec { before: Some("v6.1".into()), after: Some("v6.2".into()), ..PairSpec::default() };
        let (patches, options) = revisions.words();
        assert_eq!(PairSpec::of_words([patches, options].concat()), revisions);
    }
}

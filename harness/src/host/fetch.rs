//! Fetches a kernel's source, or a kernel, of a Debian suite as a file.
//!
//! apt runs with folders of its own. So nothing of the suite is installed, the machine's apt does
//! not learn of the suite, and root is not needed.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::install::suite_source;
use super::{Os, System};
use crate::kernel::{Cache, Tool, capture};
use crate::{Error, Result};

/// The metapackage, which depends on the newest source of its suite.
const NEWEST: &str = "linux-source";

/// A file of an archive, as `apt-get download --print-uris` prints it.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    file: String,
    bytes: u64,
}

/// Downloads a package of `suite`, such as `trixie-backports`, into the cache, unless it is there
/// already: `package`, such as `linux-source-6.12`, or the newest source of a kernel. For a
/// metapackage such as `linux-image-amd64`, this is the package that it depends on. Returns its
/// file.
///
/// Fails with a user error if the suite or the package does not exist, or if the machine has no apt.
pub async fn fetch(
    cache: &Cache,
    suite: &str,
    package: Option<&str>,
    cancel: &CancellationToken,
) -> Result<PathBuf> {
    for name in [Some(suite), package].into_iter().flatten() {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+-".contains(&byte))
        {
            return Err(Error::user(format!("{name:?} is not a name that an archive can have"))
                .help("hotplug kernel fetch SUITE [PACKAGE], such as trixie-backports linux-source-6.12"));
        }
    }
    let system = System::this_machine();
    let source = suite_source(&system, &Os::find(&system), suite)?;
    let sources = cache.sources();
    fs_err::create_dir_all(&sources)?;
    // On the same file system, so that a whole file can be renamed into place.
    let folder = tempfile::Builder::new().prefix("apt-").tempdir_in(&sources)?;
    let apt = Apt { folder: folder.path(), suite, cancel };
    apt.prepare(&source)?;
    apt.run("apt-get", &["update", "-q", "--error-on=any"], "the list of packages").await?;
    let named = package.unwrap_or(NEWEST);
    let shown = apt.run("apt-cache", &["show", named], named).await?;
    let package = match real(named, &shown) {
        Some(real) => real,
        None if named != NEWEST => named.to_owned(),
        None => {
            return Err(Error::user(format!("{suite} has no {NEWEST}"))
                .help("name a suite that has kernels, such as sid"));
        }
    };
    let printed = apt.run("apt-get", &["download", "--print-uris", &package], &package).await?;
    let offer = Offer::parse(&printed)
        .ok_or_else(|| Error::infrastructure(format!("apt names no file of {package}")).detail(printed))?;
    let file = sources.join(&offer.file);
    if fs_err::metadata(&file).is_ok_and(|there| there.len() == offer.bytes) {
        return Ok(file);
    }
    // apt checks the file against the archive's signed hashes.
    apt.run("apt-get", &["download", "-q", &package], &package).await?;
    fs_err::rename(folder.path().join(&offer.file), &file)?;
    Ok(file)
}

/// apt with folders of its own.
struct Apt<'a> {
    folder: &'a Path,
    suite: &'a str,
    cancel: &'a CancellationToken,
}

impl Apt<'_> {
    fn prepare(&self, source: &str) -> Result<()> {
        for folder in ["state/lists/partial", "cache/archives/partial", "parts"] {
            fs_err::create_dir_all(self.folder.join(folder))?;
        }
        Ok(fs_err::write(self.folder.join("parts/suite.sources"), source)?)
    }

    /// Runs one of apt's programs in the folder to get `what`, and returns its standard output.
    async fn run(&self, program: &str, arguments: &[&str], what: &str) -> Result<String> {
        let own = |name: &str, path: &str| format!("{name}={}", self.folder.join(path).display());
        let options = [
            own("Dir::State", "state"),
            own("Dir::Cache", "cache"),
            own("Dir::Etc::sourceparts", "parts"),
            "Dir::Etc::sourcelist=/dev/null".into(),
            // No package counts as installed.
            "Dir::State::status=/dev/null".into(),
            "Acquire::Languages=none".into(),
            // The user `_apt`, to which apt of root changes, cannot write here.
            "APT::Sandbox::User=root".into(),
        ];
        let options = options.iter().flat_map(|option| ["-o", option]);
        let tool = Tool::new(program, self.folder).args(options).args(arguments);
        let out = capture(tool, self.cancel).await?.ok(|said| {
            Error::user(format!("apt could not get {what} of the suite {}", self.suite))
                .detail(said)
                .help("look whether the suite and the package exist, and whether apt reaches its archive")
        })?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

/// The package of a certain kernel on which the metapackage `named` depends, in the first version
/// that apt shows, which is the newest. None if `named` is itself of a certain kernel.
fn real(named: &str, shown: &str) -> Option<String> {
    let of_a_kernel = |name: &str| {
        let version = ["linux-source-", "linux-image-"].iter().find_map(|family| name.strip_prefix(family));
        version.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
    };
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let mut words = depends.split([',', ' ']);
    words.find(|word| of_a_kernel(word)).filter(|_| !of_a_kernel(named)).map(str::to_owned)
}

impl Offer {
    /// Parses `'http://...' FILE BYTES HASH`.
    fn parse(printed: &str) -> Option<Self> {
        let line = printed.lines().find(|line| line.starts_with('\''))?;
        let mut words = line.split_whitespace().skip(1);
        let file = words.next().filter(|file| !file.contains('/'))?.to_owned();
        Some(Self { file, bytes: words.next()?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metapackage_stands_for_the_newest_package() {
        let shown = "Package: linux-source\nVersion: 7.3.4-1~bpo13+1\nDepends: linux-source-7.3 (= 7.3.4-1~bpo13+1)\n\n\
            Package: linux-source\nVersion: 6.12.95-1\nDepends: linux-source-6.12\n";
        assert_eq!(real(NEWEST, shown).as_deref(), Some("linux-source-7.3"));
        assert_eq!(real(NEWEST, "N: No packages found\n"), None);
        let image = "Depends: linux-image-6.1.0-57-amd64 (= 6.1.192-3)\n";
        assert_eq!(real("linux-image-amd64", image).as_deref(), Some("linux-image-6.1.0-57-amd64"));
        let image = "Depends: kmod, linux-base (>= 4.3~), linux-image-6.1.0-50-amd64\n";
        assert_eq!(real("linux-image-6.1.0-57-amd64", image), None);
    }

    #[test]
    fn an_offer_names_a_file_of_this_folder() {
        let line = "'http://mirror.example/pool/linux-source-7.3_7.3.4-1_all.deb' linux-source-7.3_7.3.4-1_all.deb 1602 SHA256:0\n";
        let offer = Offer { file: "linux-source-7.3_7.3.4-1_all.deb".into(), bytes: 1602 };
        assert_eq!(Offer::parse(line), Some(offer));
        assert_eq!(Offer::parse("'http://mirror.example/x' ../x.deb 1602 SHA256:0\n"), None);
        assert_eq!(Offer::parse("E: Unable to locate package\n"), None);
    }
}

//! Loads that read and write attributes while these are removed.
//!
//! `kernfs_drain()` takes its lockdep annotation only if a task is inside the attribute that is
//! removed (6.1 fs/kernfs/dir.c: it returns early without active references). So only a tight loop,
//! with the files open and without a fork, shows that an attribute is removed under a lock that its
//! reader takes, too.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::glob;
use crate::worker::Loop;

/// New files are searched for after this number of loops, ...
const FRESH_LOOPS: usize = 1024;

/// ... or after this number of rounds over all files, if that is more: listing a folder takes
/// longer than reading from it.
const FRESH_ROUNDS: usize = 16;

/// One page. An attribute of sysfs fits in it.
const READ_BYTES: usize = 4096;

/// Reads the files at a path, one a loop.
#[derive(Debug)]
pub(crate) struct Readers(Files);

impl Readers {
    pub(crate) fn open(pattern: &str) -> io::Result<Self> {
        Ok(Self(Files::open(pattern, Way::Read)?))
    }
}

impl Loop for Readers {
    fn once(&mut self) -> io::Result<()> {
        let mut buffer = [0; READ_BYTES];
        self.0.once(|mut file, _| match file.read_at(&mut buffer, 0) {
            // A terminal cannot be read at an offset.
            Err(error) if error.raw_os_error() == Some(Errno::ESPIPE as i32) => file.read(&mut buffer),
            read => read,
        })
    }

    fn is_expected(&self, error: &io::Error) -> bool {
        is_of_attribute(error)
    }
}

/// Writes to the files at a path, one a loop: the first value to all of them, then the second value
/// to all of them, ...
#[derive(Debug)]
pub(crate) struct Writers {
    files: Files,
    data: Vec<String>,
}

impl Writers {
    pub(crate) fn open(pattern: &str, data: &[String]) -> io::Result<Self> {
        if data.is_empty() {
            return Err(io::Error::other("a load that writes needs data"));
        }
        Ok(Self { files: Files::open(pattern, Way::Write)?, data: data.to_vec() })
    }
}

impl Loop for Writers {
    fn once(&mut self) -> io::Result<()> {
        let data = &self.data;
        self.files.once(|file, round| {
            let value = data.get(round % data.len()).map_or("", String::as_str);
            file.write_at(value.as_bytes(), 0)
        })
    }

    fn is_expected(&self, error: &io::Error) -> bool {
        is_of_attribute(error)
    }
}

/// Whether an error is the attribute's own. Only ESPIPE means that the file has no offsets.
fn is_of_attribute(error: &io::Error) -> bool {
    error.raw_os_error() != Some(Errno::ESPIPE as i32)
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Read,
    Write,
}

/// The files at a path, kept open.
#[derive(Debug)]
struct Files {
    pattern: String,
    way: Way,
    open: Vec<(PathBuf, File)>,
    /// The index of the next file.
    next: usize,
    /// The number of rounds over all of them.
    round: usize,
    /// Loops until the path is expanded again.
    fresh: usize,
}

impl Files {
    fn open(pattern: &str, way: Way) -> io::Result<Self> {
        // One file for each slab cache or memory block may be a thousand files. Those over the
        // limit are not opened.
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        let mut files =
            Self { pattern: pattern.to_owned(), way, open: Vec::new(), next: 0, round: 0, fresh: 0 };
        match files.look_again() {
            _ if !files.open.is_empty() => Ok(files),
            None => Err(io::Error::other(format!("no file matches {pattern}"))),
            Some(error) => Err(io::Error::other(format!("cannot open {pattern}: {error}"))),
        }
    }

    /// Opens the files that the path names now and that are not open yet. Returns the error of the
    /// last file that could not be opened.
    fn look_again(&mut self) -> Option<io::Error> {
        let mut refused = None;
        let mut known: BTreeMap<_, _> = std::mem::take(&mut self.open).into_iter().collect();
        for path in glob::expand(&self.pattern) {
            let opened = match (known.remove(&path), self.way) {
                (Some(file), _) => Ok(file),
                (None, Way::Read) => File::open(&path),
                (None, Way::Write) => File::options().write(true).open(&path),
            };
            match opened {
                Ok(file) => self.open.push((path, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => refused = Some(error),
            }
        }
        self.fresh = FRESH_LOOPS.max(FRESH_ROUNDS * self.open.len());
        refused
    }

    /// Calls `one` with the next file and the round.
    fn once(&mut self, one: impl FnOnce(&File, usize) -> io::Result<usize>) -> io::Result<()> {
        /// No event announces a new attribute.
        const PAUSE: Duration = Duration::from_millis(1);
        if self.next >= self.open.len() {
            self.next = 0;
            self.round = self.round.wrapping_add(1);
        }
        if self.fresh == 0 {
            self.look_again();
        }
        let Some((_, file)) = self.open.get(self.next) else {
            std::thread::sleep(PAUSE);
            self.fresh = 0;
            return Err(Errno::ENOENT.into());
        };
        self.fresh = self.fresh.saturating_sub(1);
        let result = one(file, self.round).map(drop);
        if result.as_ref().is_err_and(is_gone) {
            // A new attribute of the same name is another file.
            self.open.remove(self.next);
            self.fresh = 0;
        } else {
            self.next += 1;
        }
        result
    }
}

/// Whether the attribute of the file was removed (`ENODEV`: fs/kernfs/file.c, `kernfs_get_active`
/// failed). Other errors are the attribute's own.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENODEV | Errno::ENOENT | Errno::EIO | Errno::ENXIO)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("hotplug-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn each_file_gets_each_value() {
        let folder = folder("writers");
        let files = ["a0", "a1"].map(|name| folder.join(name));
        for file in &files {
            std::fs::write(file, "-").unwrap();
        }
        let data = ["0".to_owned(), "1".to_owned()];
        let mut writers = Writers::open(&format!("{}/a*", folder.display()), &data).unwrap();
        let mut seen = Vec::new();
        for _ in 0..5 {
            writers.once().unwrap();
            seen.push(files.clone().map(|file| std::fs::read_to_string(file).unwrap()).concat());
        }
        assert_eq!(seen, ["0-", "00", "10", "11", "01"]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_comes_is_found_and_what_goes_is_forgotten() {
        let folder = folder("readers");
        std::fs::write(folder.join("a0"), "x").unwrap();
        let mut readers = Readers::open(&format!("{}/a*", folder.display())).unwrap();
        std::fs::write(folder.join("a1"), "x").unwrap();
        for _ in 0..=FRESH_LOOPS {
            readers.once().unwrap();
        }
        assert_eq!(readers.0.open.len(), 2);
        std::fs::remove_dir_all(folder).unwrap();
        readers.0.fresh = 0;
        readers.once().unwrap_err();
        assert!(readers.0.open.is_empty());
    }

    #[test]
    fn a_path_to_nothing_is_named() {
        let error = Readers::open("/proc/absent-*/x").unwrap_err().to_string();
        assert_eq!(error, "no file matches /proc/absent-*/x");
        let error = Writers::open("/proc/self/stat", &[]).unwrap_err().to_string();
        assert_eq!(error, "a load that writes needs data");
    }
}

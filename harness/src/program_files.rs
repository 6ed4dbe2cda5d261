//! The files of the user's programs, packed for the guest: an archive that follows the agent's
//! initramfs. Faults that would only show in the guest, such as a missing interpreter, are found
//! here.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hotplug_protocol::{PROGRAM_PATH, PROGRAMS, ROOTFS};
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use walkdir::WalkDir;

use crate::bytes::Bytes;
use crate::image::{Item, Kind};
use crate::scenario::{Program, ProgramFiles, Scenario};
use crate::{Error, Result, image};

/// The folder in a run's folder that has the archives, by the name of their scenario.
pub(crate) const FOLDER: &str = "programs";

/// The part of a machine's memory that the files may take, as a divisor. They stay in memory as
/// long as the guest runs, once packed in the initramfs and once unpacked until the boot has ended.
const SHARE: u64 = 4;

/// Reads the files of the scenario's programs, and its root. `None` if it has neither.
///
/// Fails with a user error that names the program, if a file is missing, cannot run in the guest, or
/// is too large.
pub fn read(scenario: &Scenario) -> Result<Option<ProgramFiles>> {
    if !scenario.has_program_files() {
        return Ok(None);
    }
    let mut items = Items { all: BTreeMap::new(), bytes: 0, most: scenario.machine.memory.0 / SHARE };
    let unpacked = scenario.guest.rootfs.as_deref().map(unpacked).transpose()?;
    if let Some(root) = &unpacked {
        items.add_tree(root.path(), ROOTFS)?;
    }
    for program in scenario.programs.values() {
        if let Some(files) = &program.files {
            let meta = fs_err::metadata(files).map_err(|error| {
                Error::user(format!("program {}: cannot read its files: {error}", program.name))
                    .help("a relative path begins at the folder of the scenario's file")
            })?;
            items.add_folder(PROGRAMS);
            let place = program.place();
            if meta.is_dir() {
                items.add_tree(files, &place)?;
            } else {
                items.add_folder(&place);
                let name = files.file_name().unwrap_or_default().to_string_lossy();
                items.add(files, &format!("{place}/{name}"))?;
            }
        }
    }
    for program in scenario.programs.values() {
        items.check(program, scenario.guest.rootfs.is_some())?;
    }
    let archive = image::archive_of(
        items
            .all
            .into_iter()
            .map(|(path, kind)| Item { path: path.trim_start_matches('/').to_owned(), kind }),
    )?;
    Ok(Some(ProgramFiles::new(archive)))
}

/// The files of the scenario `name` of an earlier run, as they were kept in its folder. `None` if it
/// has none.
pub(crate) fn kept(run: &Path, name: &str) -> Result<Option<ProgramFiles>> {
    match fs_err::read(run.join(place(name))) {
        Ok(archive) => Ok(Some(ProgramFiles::new(archive))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The place in a run's folder of the files of the scenario `name`.
pub(crate) fn place(name: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{name}.cpio"))
}

/// A root, unpacked if it is an archive.
enum Root<'a> {
    Folder(&'a Path),
    Unpacked(tempfile::TempDir),
}

impl Root<'_> {
    fn path(&self) -> &Path {
        match self {
            Self::Folder(path) => path,
            Self::Unpacked(folder) => folder.path(),
        }
    }
}

fn unpacked(rootfs: &Path) -> Result<Root<'_>> {
    let wrong = |what: &str| {
        Error::user(format!("rootfs {}: {what}", rootfs.display())).help(
            "give a folder or a tar archive; a relative path begins at the folder of the scenario's file",
        )
    };
    let meta = fs_err::metadata(rootfs).map_err(|error| wrong(&error.to_string()))?;
    if meta.is_dir() {
        return Ok(Root::Folder(rootfs));
    }
    let folder = tempfile::tempdir()?;
    let tar = std::process::Command::new("tar")
        .args(["--no-same-owner", "--delay-directory-restore", "--exclude=./dev/*", "--exclude=dev/*", "-xf"])
        .arg(std::path::absolute(rootfs)?)
        .current_dir(folder.path())
        .output()
        .map_err(|error| Error::infrastructure(format!("cannot run tar: {error}")))?;
    if !tar.status.success() {
        return Err(wrong("tar cannot unpack it").detail(String::from_utf8_lossy(&tar.stderr).trim()));
    }
    Ok(Root::Unpacked(folder))
}

/// The files so far, by their absolute path in the guest, so that a folder comes before its files.
struct Items {
    all: BTreeMap<String, Kind>,
    bytes: u64,
    most: u64,
}

impl Items {
    fn add_folder(&mut self, path: &str) {
        self.all.insert(path.to_owned(), Kind::Folder);
    }

    fn add_tree(&mut self, from: &Path, to: &str) -> Result<()> {
        for entry in WalkDir::new(from).min_depth(1) {
            let entry =
                entry.map_err(|error| Error::user(format!("cannot read the files of a program: {error}")))?;
            let below = entry.path().strip_prefix(from).unwrap_or(entry.path());
            self.add(entry.path(), &format!("{to}/{}", below.to_string_lossy()))?;
        }
        self.add_folder(to);
        Ok(())
    }

    /// Adds one file, folder or link. Devices, sockets and pipes are left out: the guest has its own.
    fn add(&mut self, from: &Path, to: &str) -> Result<()> {
        let meta = fs_err::symlink_metadata(from)?;
        let kind = if meta.is_dir() {
            Kind::Folder
        } else if meta.is_symlink() {
            Kind::Link(fs_err::read_link(from)?.to_string_lossy().into_owned())
        } else if meta.is_file() {
            self.bytes += meta.len();
            if self.bytes > self.most {
                return Err(Error::user(format!(
                    "the files of the programs have more than {}, a quarter of the machine's memory",
                    Bytes(self.most)
                ))
                .help("leave some out, or give the machine more memory"));
            }
            Kind::File { permissions: meta.permissions().mode() & 0o7777, bytes: fs_err::read(from)? }
        } else {
            return Ok(());
        };
        self.all.insert(to.to_owned(), kind);
        Ok(())
    }

    /// The file at `path` below `root`, behind links.
    fn file(&self, root: &str, path: &str) -> Option<(u32, &[u8])> {
        let mut place = normal(&format!("/{path}"));
        // As many links as Linux follows (include/linux/namei.h, `MAXSYMLINKS`).
        for _ in 0..40 {
            let whole = format!("{root}{place}");
            match self.all.get(&whole) {
                Some(Kind::File { permissions, bytes }) => return Some((*permissions, bytes)),
                Some(Kind::Link(to)) => place = normal(&beside(&place, to)),
                Some(Kind::Folder) => return None,
                None => {
                    // A folder on the way may be a link, such as /lib to usr/lib.
                    let mut parents = Path::new(&place).ancestors().skip(1);
                    let link = parents.find_map(|parent| {
                        let text = parent.to_str()?;
                        match self.all.get(&format!("{root}{text}")) {
                            Some(Kind::Link(to)) => Some((text.to_owned(), to.clone())),
                            _ => None,
                        }
                    })?;
                    let rest = place.strip_prefix(&link.0)?.to_owned();
                    place = normal(&format!("{}{rest}", beside(&link.0, &link.1)));
                }
            }
        }
        None
    }

    /// Checks that the guest can start the program.
    fn check(&self, program: &Program, has_root: bool) -> Result<()> {
        let root = if has_root { ROOTFS } else { "" };
        let Some(name) = program.run.first() else { return Ok(()) };
        let wrong =
            |what: String, help: &str| Error::user(format!("program {}: {what}", program.name)).help(help);
        let own = (!name.starts_with('/')).then(|| self.file("", &format!("{}/{name}", program.place())));
        let found = match own.flatten() {
            Some(found) => found,
            None if name.starts_with('/') => self.file(root, name).ok_or_else(|| {
                wrong(format!("{name} is not in the guest"), "name a file of `files`, or of the root")
            })?,
            None => {
                let mut at = PROGRAM_PATH.split(':').filter(|_| has_root && !name.contains('/'));
                at.find_map(|folder| self.file(root, &format!("{folder}/{name}"))).ok_or_else(|| {
                    wrong(
                        format!("it runs {name}, which is neither one of its files nor a program of a root"),
                        "give `files` that have it, or [guest] rootfs",
                    )
                })?
            }
        };
        let (permissions, bytes) = found;
        if permissions & 0o111 == 0 {
            return Err(wrong(format!("{name} is not executable"), "chmod +x it"));
        }
        let interpreter = match interpreter(bytes) {
            Ok(interpreter) => interpreter,
            Err(what) => {
                return Err(wrong(format!("{name} {what}"), "build it for the guest: static, for x86-64"));
            }
        };
        match interpreter {
            Some(needed) if !has_root => Err(wrong(
                format!("{name} needs {needed}, which the guest does not have"),
                "link it statically, or give [guest] rootfs, a folder or tar archive with what it needs",
            )),
            Some(needed) if self.file(root, &needed).is_none() => Err(wrong(
                format!("{name} needs {needed}, which the root does not have"),
                "add it to the root",
            )),
            _ => Ok(()),
        }
    }
}

/// The path of a link's target, as seen from the link at `place`.
fn beside(place: &str, to: &str) -> String {
    if to.starts_with('/') {
        return to.to_owned();
    }
    let folder = place.rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{folder}/{to}")
}

/// An absolute path without `.` and `..`.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The interpreter that a program needs: that of a script, or the dynamic linker (elf(5),
/// `PT_INTERP`). An error has the reason why no guest can run it.
pub(crate) fn interpreter(bytes: &[u8]) -> Result<Option<String>, &'static str> {
    if let Some(line) = bytes.strip_prefix(b"#!") {
        let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let text = String::from_utf8_lossy(line);
        return text
            .split_whitespace()
            .next()
            .map(|word| Some(word.to_owned()))
            .ok_or("names no interpreter");
    }
    if !bytes.starts_with(b"\x7fELF") {
        return Err("is neither a program (ELF) nor a script that names its interpreter");
    }
    let header =
        elf::FileHeader64::<object::Endianness>::parse(bytes).map_err(|_| "is not a 64-bit program")?;
    let endian = header.endian().map_err(|_| "is damaged")?;
    if header.e_machine(endian) != elf::EM_X86_64 {
        return Err("is a program for another processor");
    }
    let segments = header.program_headers(endian, bytes).map_err(|_| "is damaged")?;
    for segment in segments {
        if let Ok(Some(path)) = segment.interpreter(endian, bytes) {
            return Ok(Some(String::from_utf8_lossy(path).into_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::SAMPLE;

    /// A folder with a scenario that runs `run` of `files`, in `rootfs`.
    struct Fixture(tempfile::TempDir);

    impl Fixture {
        fn new() -> Self {
            let fixture = Self(tempfile::tempdir().unwrap());
            fixture.write("own/test.sh", b"#!/bin/sh\nexit 0\n", 0o755);
            fixture.write("own/static", image::AGENT, 0o755);
            fixture
        }

        fn write(&self, name: &str, bytes: &[u8], mode: u32) {
            let path = self.0.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(&path, bytes).unwrap();
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }

        fn read(&self, files: &str, run: &str, rootfs: Option<&str>) -> Result<Option<ProgramFiles>> {
            let root = rootfs.map_or_else(String::new, |rootfs| format!("\nrootfs = \"{rootfs}\""));
            let text = SAMPLE.1.replacen("[guest]", &format!("[guest]{root}"), 1);
            let files = if files.is_empty() { String::new() } else { format!("files = \"{files}\"\n") };
            let text = format!(
                "{text}\n[[program]]\nname = \"own\"\n{files}run = [\"{run}\"]\n\n[[lane]]\nname = \"own\"\nsteps = [{{ program = \"own\" }}]\n"
            );
            let scenario = Scenario::parse(SAMPLE.0, &text).unwrap().with_paths_from(self.0.path());
            super::read(&scenario)
        }

        fn fault(&self, files: &str, run: &str, rootfs: Option<&str>) -> String {
            let error = self.read(files, run, rootfs).unwrap_err();
            assert_eq!(error.exit_status(), 2);
            error.to_string()
        }
    }

    #[test]
    fn a_static_program_needs_nothing() {
        let fixture = Fixture::new();
        assert!(fixture.read("own", "./static", None).unwrap().is_some());
        assert!(fixture.read("own/static", "static", None).unwrap().is_some());
        let packed = fixture.read("own", "static", None).unwrap().unwrap();
        assert!(packed.bytes().len() > image::AGENT.len() && packed.bytes().len().is_multiple_of(4));
    }

    #[test]
    fn what_a_guest_cannot_start_is_named() {
        let fixture = Fixture::new();
        fixture.write("own/dynamic", &fs_err::read("/bin/sh").unwrap(), 0o755);
        fixture.write("own/text", b"hello", 0o755);
        fixture.write("own/still", image::AGENT, 0o644);
        let mut other = image::AGENT.to_vec();
        other[18] = 0xb7;
        fixture.write("own/arm", &other, 0o755);
        for (files, run, fault) in [
            ("own", "./test.sh", "test.sh needs /bin/sh, which the guest does not have"),
            ("own", "./dynamic", "which the guest does not have"),
            ("own", "./text", "is neither a program (ELF) nor a script"),
            ("own", "./still", "is not executable"),
            ("own", "./arm", "for another processor"),
            ("own", "./none", "which is neither one of its files nor a program of a root"),
            ("own", "/bin/true", "/bin/true is not in the guest"),
            ("other", "./test.sh", "cannot read its files"),
        ] {
            let said = fixture.fault(files, run, None);
            assert!(said.contains(fault) && said.starts_with("program own: "), "{said}");
        }
    }

    #[test]
    fn a_root_has_what_scripts_need() {
        let fixture = Fixture::new();
        assert!(fixture.fault("own", "./test.sh", Some("root")).starts_with("rootfs "));
        fixture.write("root/usr/bin/busybox", image::AGENT, 0o755);
        std::os::unix::fs::symlink("usr/bin", fixture.0.path().join("root/bin")).unwrap();
        let said = fixture.fault("own", "./test.sh", Some("root"));
        assert!(said.contains("needs /bin/sh, which the root does not have"), "{said}");
        std::os::unix::fs::symlink("busybox", fixture.0.path().join("root/usr/bin/sh")).unwrap();
        let from_folder = fixture.read("own", "./test.sh", Some("root")).unwrap();
        assert!(fixture.read("", "sh", Some("root")).unwrap().is_some());
        let tar = std::process::Command::new("tar")
            .args(["-czf", "root.tar.gz", "-C", "root", "."])
            .current_dir(fixture.0.path())
            .status();
        assert!(tar.unwrap().success());
        assert_eq!(fixture.read("own", "./test.sh", Some("root.tar.gz")).unwrap(), from_folder);
        fixture.write("no.tar", b"no archive", 0o644);
        assert!(fixture.fault("own", "./test.sh", Some("no.tar")).contains("tar cannot unpack it"));
    }

    #[test]
    fn files_that_fill_the_guest_are_refused() {
        let fixture = Fixture::new();
        let large = fs_err::File::create(fixture.0.path().join("own/large")).unwrap();
        large.set_len(200 << 20).unwrap();
        let said = fixture.fault("own", "./static", None);
        assert!(said.contains("more than 128M, a quarter of the machine's memory"), "{said}");
    }
}

//! The toy: a small kernel source that make builds in a second, and the fake QEMU, which behaves as
//! that source specifies. Kernels, patches, series and histories are judged as usual, with a real
//! make, a real gcc and a real git.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::common::Run;
use super::{fake, kept};

/// A DIMM and a CPU are plugged and unplugged.
pub(crate) const SCENARIO: &str = r#"
about = "a DIMM and a CPU come and go"
trials = 4
[machine]
cpus = 2
max_cpus = 4
memory = "512M"
max_memory = "4G"
slots = 4
[[dimm]]
name = "dimm"
size = "128M"
[[cpu]]
name = "cpu"
[[lane]]
name = "memory"
steps = [{ plug = "dimm" }, { unplug = "dimm" }, { plug = "dimm" }, { unplug = "dimm" }]
[[lane]]
name = "cpus"
steps = [{ plug = "cpu" }, { unplug = "cpu" }]
"#;

/// A change of one file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edit {
    pub(crate) file: &'static str,
    pub(crate) old: &'static str,
    pub(crate) new: &'static str,
}

/// The kernel warns each time that a DIMM is plugged.
pub(crate) const WARNS: Edit = Edit {
    file: "mm/memory_hotplug.c",
    old: "\treturn pfn > nr_pages;\n",
    new: "\tHAPPENS(\"plug dimm; 1; report cpus-held\");\n\n\treturn pfn > nr_pages;\n",
};
/// The same warning, from the third trial of a guest on.
pub(crate) const WARNS_LATER: Edit = Edit {
    file: WARNS.file,
    old: WARNS.old,
    new: "\tHAPPENS(\"plug dimm; 1; report cpus-held; round 3\");\n\n\treturn pfn > nr_pages;\n",
};
/// Each trial leaves less memory than the one before.
pub(crate) const LEAKS: Edit = Edit {
    file: WARNS.file,
    old: WARNS.old,
    new: "\tHAPPENS(\"plug dimm; 1; leak\");\n\n\treturn pfn > nr_pages;\n",
};
/// The same warning, in a fifth of all trials.
pub(crate) const WARNS_SOMETIMES: Edit = Edit {
    file: WARNS.file,
    old: WARNS.old,
    new: "\tHAPPENS(\"plug dimm; 0.2; report cpus-held\");\n\n\treturn pfn > nr_pages;\n",
};
/// The kernel does not compile.
pub(crate) const BREAKS: Edit = Edit {
    file: "mm/memory_hotplug.c",
    old: "\treturn pfn < nr_pages;\n",
    new: "\tstrcut page *nobody;\n\n\treturn pfn < nr_pages;\n",
};
pub(crate) const MENDS: Edit = Edit { file: BREAKS.file, old: BREAKS.new, new: BREAKS.old };
/// A comment changes, so the kernel behaves the same.
pub(crate) const SAYS: Edit =
    Edit { file: "kernel/cpu.c", old: " * Of it, the names", new: " * A comment.\n * Of it, the names" };
pub(crate) const SAYS_MORE: Edit =
    Edit { file: "kernel/cpu.c", old: " * A comment.\n", new: " * A comment.\n * Another one.\n" };

/// The toy's source, and a run of the binary on it.
pub(crate) struct Toy {
    pub(crate) run: Run,
}

impl Toy {
    /// A toy whose source is a repository with one commit.
    pub(crate) fn new() -> Self {
        let toy = Self { run: Run::new() };
        kept::copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/toy_kernel"), &toy.source());
        toy.git(&["init", "--quiet"]);
        toy.git(&["add", "--all", "--force"]);
        toy.git(&["commit", "--quiet", "-m", "the toy as it is"]);
        fake::install(&toy.path("fake_qemu"));
        std::fs::write(toy.path("toy.toml"), SCENARIO).unwrap();
        toy
    }

    /// A folder for `HOTPLUG_FAKE_DRAWS`. The guests of a command with this variable are numbered,
    /// and each draws its random events from its number. They are the same in every test run,
    /// whatever seed the command draws.
    pub(crate) fn count_guests(&self) -> PathBuf {
        let folder = self.path("draws");
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        folder
    }

    /// A path beside its results.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.run.results().with_file_name(name)
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.path("linux")
    }

    pub(crate) fn git(&self, words: &[&str]) -> String {
        let names = ["-c", "user.name=A Tester", "-c", "user.email=tester@example.org", "-c", "gc.auto=0"];
        let said = Command::new("git").arg("-C").arg(self.source()).args(names).args(words).output().unwrap();
        assert!(said.status.success(), "{words:?}: {}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8(said.stdout).unwrap().trim().to_owned()
    }

    /// Makes an edit and commits it. Returns the commit's name.
    pub(crate) fn commit(&self, subject: &str, edit: Edit) -> String {
        let path = self.source().join(edit.file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(edit.old), "{subject}");
        std::fs::write(&path, text.replacen(edit.old, edit.new, 1)).unwrap();
        self.git(&["commit", "--quiet", "--all", "-m", subject]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Writes the edits as mails to a folder, and resets the source to what it was.
    pub(crate) fn patches(&self, name: &str, edits: &[(&str, Edit)]) -> PathBuf {
        let (base, folder) = (self.git(&["rev-parse", "HEAD"]), self.path(name));
        for (subject, edit) in edits {
            self.commit(subject, *edit);
        }
        self.git(&["format-patch", "--quiet", "-o", folder.to_str().unwrap(), &base]);
        self.git(&["reset", "--quiet", "--hard", &base]);
        folder
    }

    /// The binary, set up for the toy.
    pub(crate) fn hotplug(&self, words: &[&str]) -> assert_cmd::Command {
        let mut command = assert_cmd::Command::from_std(Command::new(env!("CARGO_BIN_EXE_hotplug")));
        command.args(words);
        self.settle_in(&mut command);
        command
    }

    /// Sets the environment of a command: the fake QEMU, the toy's kernel cache, short limits.
    pub(crate) fn settle_in(&self, command: &mut assert_cmd::Command) {
        command.env("HOTPLUG_QEMU", self.path("fake_qemu")).env("HOTPLUG_TIME_SCALE", "0.2");
        command.env("XDG_CACHE_HOME", self.path("cache")).env("TMPDIR", self.path("tmp"));
        command.env_remove("HOTPLUG_FAKE").current_dir(self.path(""));
    }

    /// Starts it and returns at once.
    pub(crate) fn spawn(&self, command: &assert_cmd::Command) -> std::process::Child {
        let mut plain = Command::new(command.get_program());
        plain
            .args(command.get_args())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        plain.envs(set).env_remove("HOTPLUG_FAKE").current_dir(self.path("")).spawn().unwrap()
    }

    /// `hotplug compare` of a patch of the toy, or of the toy with itself.
    pub(crate) fn compare(&self, patch: Option<&Path>) -> assert_cmd::Command {
        let mut command = self.run.compare();
        self.settle_in(&mut command);
        command.arg("--source").arg(self.source()).arg("--scenario").arg(self.path("toy.toml"));
        command.args(["--accel", "tcg"]);
        match patch {
            Some(patch) => command.arg(patch),
            None => command.arg("--same"),
        };
        command
    }
}

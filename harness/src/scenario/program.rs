//! The `program` tables of a scenario: programs of the user that run in the guest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hotplug_protocol::{Load, LoadKind, PROGRAMS};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{Expect, Guest};
use crate::fault::Fault;

/// The files of a scenario's programs, as the guest unpacks them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramFiles {
    archive: Vec<u8>,
}

impl ProgramFiles {
    /// An archive that can follow the agent's initramfs.
    pub(crate) fn new(archive: Vec<u8>) -> Self {
        Self { archive }
    }

    /// The archive.
    pub fn bytes(&self) -> &[u8] {
        &self.archive
    }
}

/// The default limit of a program, in seconds.
const LIMIT_S: u32 = 60;

/// A program of the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Its name, by which steps and loads call it.
    pub name: String,
    /// A file of the host, or a folder, that goes into the guest. A relative path begins at the
    /// folder of the scenario's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<PathBuf>,
    /// The file that is run, and its arguments. A relative file is one of `files`, or is looked for
    /// in the folders of programs of the guest's root.
    pub run: Vec<String>,
    /// Variables of its environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Its working folder in the guest. The default is the folder of its files, or `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// CPUs that it may run on; any if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u32>,
    /// Seconds after which it is killed.
    #[serde(default = "limit")]
    pub limit_s: u32,
}

fn limit() -> u32 {
    LIMIT_S
}

impl Program {
    /// Its folder in the guest.
    pub fn place(&self) -> String {
        format!("{PROGRAMS}/{}", self.name)
    }

    /// The program as the agent runs it.
    pub fn for_guest(&self, in_rootfs: bool) -> hotplug_protocol::ProgramRun {
        let usual = || if self.files.is_some() { self.place() } else { "/".into() };
        hotplug_protocol::ProgramRun {
            name: self.name.clone(),
            run: self.run.clone(),
            env: self.env.clone(),
            folder: self.folder.clone().unwrap_or_else(usual),
            in_rootfs,
            cpus: self.cpus.clone(),
            limit_ms: u64::from(self.limit_s) * 1000,
        }
    }

    fn wrong(&self) -> Option<(&'static str, &'static str)> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || self.name.len() > 32 || !self.name.chars().all(is_name) {
            return Some(("a program's name has letters, digits, `-` and `_`", "name = \"selftest\""));
        }
        if self.run.first().is_none_or(String::is_empty) {
            return Some(("a program needs a file to run", "run = [\"./test.sh\", \"-v\"]"));
        }
        if self.run.iter().chain(self.env.keys()).chain(self.env.values()).any(|text| text.contains('\0')) {
            return Some(("no argument and no variable has a zero byte", "leave it out"));
        }
        if self.env.keys().any(|name| name.is_empty() || name.contains('=')) {
            return Some(("a variable has a name without `=`", "env = { LANG = \"C\" }"));
        }
        if self.folder.as_ref().is_some_and(|folder| !folder.starts_with('/')) {
            return Some(("a folder in the guest is absolute", "folder = \"/tmp\""));
        }
        if self.limit_s == 0 {
            return Some(("a program without time cannot end", "limit_s = 60"));
        }
        None
    }
}

/// The programs by name, checked. Their loads get all that the agent needs.
pub(super) fn checked(
    tables: &[Spanned<Program>],
    guest: &mut Guest,
) -> Result<BTreeMap<String, Program>, Fault> {
    let mut all = BTreeMap::new();
    for table in tables {
        let program = table.get_ref();
        if let Some((what, help)) = program.wrong() {
            return Err(Fault::new(table.span(), what, help));
        }
        if all.insert(program.name.clone(), program.clone()).is_some() {
            let what = format!("two programs are called `{}`", program.name);
            return Err(Fault::new(table.span(), what, "give each program a name of its own"));
        }
    }
    let in_rootfs = guest.rootfs.is_some();
    for load in &mut guest.load {
        if let Some(called) = &mut load.program {
            let Some(program) = all.get(&called.name) else {
                let what = format!("a load runs `{}`, and no program has this name", called.name);
                return Err(Fault::new(0..0, what, "add a [[program]] with this name"));
            };
            *called = program.for_guest(in_rootfs);
        }
    }
    Ok(all)
}

/// The program that a load names, before its table is known, and whether it must succeed.
pub(super) fn of_load(
    kind: LoadKind,
    name: Option<String>,
    expect: Option<Expect>,
) -> Result<(Option<hotplug_protocol::ProgramRun>, bool), &'static str> {
    match (kind == LoadKind::Program, name, expect) {
        (true, Some(name), expect) => {
            let must_succeed = match expect.unwrap_or(Expect::Any) {
                Expect::Done => true,
                Expect::Any => false,
                Expect::Refused => return Err("a load expects `done` or `any` of its program"),
            };
            Ok((Some(hotplug_protocol::ProgramRun { name, ..Default::default() }), must_succeed))
        }
        (true, None, _) => Err("a load of kind `program` names its `program`"),
        (false, None, None) => Ok((None, false)),
        (false, ..) => Err("only a load of kind `program` has a program, and expects something of it"),
    }
}

/// Whether a load runs this program.
pub(super) fn is_run_by(load: &Load, name: &str) -> bool {
    load.program.as_ref().is_some_and(|program| program.name == name)
}

/// A path of the host, relative to the folder of the scenario's file.
pub(super) fn resolve(path: &mut PathBuf, base: &Path) {
    let joined = base.join(&path);
    *path = std::path::absolute(&joined).unwrap_or(joined);
}

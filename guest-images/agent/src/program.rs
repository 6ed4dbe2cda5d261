//! Programs of the user: each runs in a cgroup of its own, so that all that it started can be ended
//! with it.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use hotplug_protocol::{Failures, Output, PROGRAM_PATH, PROGRAMS, ProgramEnd, ProgramRun, ROOTFS, Ran};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, chdir, chroot, setsid};

use crate::cgroup;
use crate::worker::{Loop, stay_on};

/// The bytes that are kept of the beginning of an output, and as many of its end.
const KEPT_BYTES: usize = 32 << 10;

/// The time in which the processes of a killed cgroup are gone.
const GONE: Duration = Duration::from_secs(2);

/// The folders of the guest that a program with a root of its own sees there.
const SHARED: [&str; 6] = ["dev", "proc", "run", "sys", "tmp", "programs"];

/// The name of the cgroup of the next step.
pub(crate) fn group_of_step() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("step-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn group_of_worker(worker: u32) -> String {
    format!("program-{worker}")
}

/// Runs a program to its end, in the cgroup `group`, which it ends with.
pub(crate) fn run(program: &ProgramRun, group: &str) -> io::Result<Ran> {
    if program.in_rootfs {
        share_folders()?;
    }
    let group = Group::new(group);
    let (output, into) = io::pipe()?;
    let mut child = start(program, &group, into)?;
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    let (told, result) = mpsc::channel();
    let (keeper, kept) = mpsc::channel();
    crate::spawn("agent-program", move || drop(keeper.send(keep(output))))?;
    crate::spawn("agent-program", move || {
        // The child stays a zombie, so that its number is not given to another process.
        let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        let _ = told.send(());
    })?;
    let ended = result.recv_timeout(Duration::from_millis(program.limit_ms));
    group.kill(pid);
    let status = child.wait()?;
    let end = match (ended, status.code(), status.signal()) {
        (Err(RecvTimeoutError::Timeout), ..) => ProgramEnd::TimedOut,
        (_, Some(code), _) => ProgramEnd::Exited(code),
        (_, None, signal) => ProgramEnd::Signalled(signal.unwrap_or_default()),
    };
    // All that could write is gone.
    let output = kept.recv().unwrap_or_default();
    Ok(Ran { end, output })
}

#[expect(unsafe_code, reason = "a child changes its root, its folder and its CPUs before it begins")]
fn start(program: &ProgramRun, group: &Group, into: io::PipeWriter) -> io::Result<Child> {
    let (name, arguments) =
        program.run.split_first().ok_or_else(|| io::Error::other("a program needs its name"))?;
    let own = format!("{PROGRAMS}/{}/{name}", program.name);
    let seen = |path: &str| if program.in_rootfs { format!("{ROOTFS}{path}") } else { path.to_owned() };
    // A file of its own comes before one of the root with that name.
    let is_own = !name.starts_with('/') && Path::new(&seen(&own)).exists();
    let mut command = Command::new(if is_own { &own } else { name });
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PROGRAM_PATH)
        .env("HOME", "/tmp")
        .envs(&program.env)
        .stdin(Stdio::null())
        .stdout(into.try_clone()?)
        .stderr(into);
    let (procs, cpus) = (group.0.join("cgroup.procs"), program.cpus.clone());
    let (folder, in_rootfs) = (program.folder.clone(), program.in_rootfs);
    let begin = move || {
        // Without cgroups, the session is what is ended.
        let _ = std::fs::write(&procs, "0");
        setsid()?;
        // If memory runs out, the OOM killer must end this process and not the agent.
        std::fs::write("/proc/self/oom_score_adj", "1000")?;
        stay_on(&cpus)?;
        if in_rootfs {
            chroot(ROOTFS)?;
        }
        Ok(chdir(folder.as_str())?)
    };
    // SAFETY: the agent's other threads may hold locks of the allocator while it forks. musl's fork
    // takes these locks and releases them in the child (musl 1.2.2, `__malloc_atfork`).
    unsafe { command.pre_exec(begin) };
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::other(format!(
            "{name}, its interpreter or its folder {} is not in the guest: {error}",
            program.folder
        )),
        _ => error,
    })
}

/// Makes the guest's own folders visible in the root of the programs, once.
fn share_folders() -> io::Result<()> {
    for name in SHARED {
        let (from, to) = (format!("/{name}"), format!("{ROOTFS}/{name}"));
        if !Path::new(&from).exists() || is_mounted(&to) {
            continue;
        }
        std::fs::create_dir_all(&to)?;
        mount(
            Some(from.as_str()),
            to.as_str(),
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            None::<&str>,
        )?;
    }
    Ok(())
}

fn is_mounted(path: &str) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(path))
}

/// The beginning and the end of what is read.
fn keep(mut from: io::PipeReader) -> Output {
    let (mut start, mut end) = (Vec::new(), VecDeque::new());
    let (mut left_out, mut buffer) = (0_u64, [0; 4096]);
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let bytes = buffer.get(..length).unwrap_or_default();
        let room = KEPT_BYTES.saturating_sub(start.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        start.extend_from_slice(first);
        end.extend(rest);
        let more = end.len().saturating_sub(KEPT_BYTES);
        end.drain(..more);
        left_out += u64::try_from(more).unwrap_or_default();
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output { start: text(&start), left_out, end: text(end.make_contiguous()) }
}

/// A cgroup, which may not exist.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Self {
        let group = Self::at(name);
        let _ = std::fs::create_dir(&group.0);
        group
    }

    fn at(name: &str) -> Self {
        Self(Path::new(cgroup::ROOT).join(name))
    }

    /// Ends all of its processes (Documentation/admin-guide/cgroup-v2.rst, `cgroup.kill`), and the
    /// session of `leader`.
    fn kill(&self, leader: Pid) {
        let _ = killpg(leader, Signal::SIGKILL);
        self.end();
    }

    /// Ends all of its processes, and waits until they are gone.
    fn end(&self) {
        let begun = Instant::now();
        // A process that forks meanwhile is killed as well. A new try does no harm.
        while self.is_populated() && begun.elapsed() < GONE {
            let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
            thread::sleep(Duration::from_millis(5));
        }
        let _ = std::fs::remove_dir(&self.0);
    }

    /// Whether it has a process that runs. Zombies do not count.
    fn is_populated(&self) -> bool {
        std::fs::read_to_string(self.0.join("cgroup.events"))
            .is_ok_and(|events| events.contains("populated 1"))
    }
}

/// A load that runs a program again and again.
#[derive(Debug)]
pub(crate) struct Runs {
    program: ProgramRun,
    worker: u32,
    failures: u64,
}

impl Runs {
    pub(crate) fn new(program: Option<&ProgramRun>, worker: u32) -> io::Result<Self> {
        let program = program.cloned().ok_or_else(|| io::Error::other("a program was not sent"))?;
        Ok(Self { program, worker, failures: 0 })
    }
}

impl Loop for Runs {
    fn once(&mut self) -> io::Result<()> {
        let last = match run(&self.program, &group_of_worker(self.worker)) {
            Ok(Ran { end: ProgramEnd::Exited(0), .. }) => return Ok(()),
            Ok(ran) => format!("{}: {}", ran.end, ran.output.last_line()),
            Err(error) => error.to_string(),
        };
        self.failures += 1;
        // The agent reads the file when it has killed this worker, so it is always whole.
        let (file, new) = (failures_file(self.worker), failures_file(self.worker).with_extension("new"));
        std::fs::write(&new, format!("{}\n{last}", self.failures))?;
        std::fs::rename(new, file)?;
        // A program that cannot even be started must not take all of a CPU.
        thread::sleep(Duration::from_millis(20));
        Err(io::Error::other(last))
    }

    fn is_expected(&self, _: &io::Error) -> bool {
        true
    }
}

fn failures_file(worker: u32) -> PathBuf {
    format!("/run/program-failures-{worker}").into()
}

/// The loops of a worker in which its program did not succeed.
pub(crate) fn failures(worker: u32) -> Option<Failures> {
    let text = std::fs::read_to_string(failures_file(worker)).ok()?;
    let (number, last) = text.split_once('\n')?;
    Some(Failures { number: number.parse().ok()?, last: last.to_owned() })
}

/// Ends what a killed worker has started, and removes its leftovers.
pub(crate) fn clean_up(worker: u32) {
    Group::at(&group_of_worker(worker)).end();
    let _ = std::fs::remove_file(failures_file(worker));
    let _ = std::fs::remove_file(failures_file(worker).with_extension("new"));
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn program(run: &[&str], limit_ms: u64) -> ProgramRun {
        ProgramRun {
            name: "test".into(),
            run: run.iter().map(|word| (*word).to_owned()).collect(),
            folder: "/".into(),
            limit_ms,
            ..ProgramRun::default()
        }
    }

    /// Runs a program of this machine. Its cgroup cannot be made, which does no harm.
    fn ran(run_words: &[&str], limit_ms: u64) -> Ran {
        run(&program(run_words, limit_ms), "no/such/cgroup").unwrap()
    }

    #[test]
    fn a_program_says_how_it_ended() {
        let done = ran(&["sh", "-c", "echo one; echo two >&2; exit 3"], 10_000);
        assert_eq!((done.end, done.output.start.as_str()), (ProgramEnd::Exited(3), "one\ntwo\n"));
        assert_eq!(ran(&["sh", "-c", "kill -9 $$"], 10_000).end, ProgramEnd::Signalled(9));
        assert_eq!(ran(&["sh", "-c", "echo begun; sleep 60"], 200).end, ProgramEnd::TimedOut);
        // What it left running does not hold its end up.
        let begun = Instant::now();
        assert_eq!(ran(&["sh", "-c", "sleep 60 & exit 0"], 30_000).end, ProgramEnd::Exited(0));
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = run(&program(&["/no/such/program"], 1000), "no/such/cgroup").unwrap_err();
        assert!(error.to_string().contains("/no/such/program, its interpreter or its folder"), "{error}");
    }

    #[test]
    fn an_output_without_end_is_cut_in_the_middle() {
        let (from, mut into) = io::pipe().unwrap();
        let writer = thread::spawn(move || {
            for number in 0..40_000 {
                writeln!(into, "{number:07}").unwrap();
            }
        });
        let output = keep(from);
        writer.join().unwrap();
        assert!(output.start.starts_with("0000000\n") && output.end.ends_with("0039999\n"));
        assert_eq!(output.left_out, 40_000 * 8 - 2 * KEPT_BYTES as u64);
        assert_eq!(output.last_line(), "0039999");
    }
}

//! Guests that misbehave. Most are restored from a guest that was saved before the initcall that
//! provokes a report, because a boot takes longer than everything after it. The parameter that the
//! kernel's command line would have is then written to the variable that the kernel would store it
//! in.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use super::gdb::Gdb;
use super::points::Point;

/// The longest time of a boot. Under TCG with both cores busy the slowest boot takes half of it.
const LIMIT: Duration = Duration::from_secs(100);

/// Boots of one point before the test fails. Under TCG on a busy host, a vCPU sometimes stops
/// getting timer interrupts before the kernel reaches the point (harness/src/trial/pool.rs has the
/// figures).
const ATTEMPTS: u32 = 3;

/// A kernel with the `provoke` patch.
pub(crate) struct Kernel {
    image: PathBuf,
    pub(crate) vmlinux: PathBuf,
    /// The first two numbers of the release: 6 and 1 of `6.1.192`.
    pub(crate) series: (u32, u32),
}

impl Kernel {
    /// The kernel with these config fragments, built in the user's cache or found there.
    pub(crate) fn with(fragments: &[&str]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut command = Command::new(env!("CARGO_BIN_EXE_hotplug"));
        command.args(["kernel", "build", "--json"]);
        for fragment in fragments {
            command.arg("--config").arg(root.join("guest-images/configs").join(fragment));
        }
        if let Some(source) = std::env::var_os("HOTPLUG_FIXTURE_SOURCE") {
            command.arg("--source").arg(source);
        }
        command.arg(root.join("guest-images/patches/provoke"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let pair: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |name: &str| pair["after"][name].as_str().unwrap().to_owned();
        let release = text("release");
        let mut numbers = release.split('.').map(|number| number.parse().unwrap());
        let series = (numbers.next().unwrap(), numbers.next().unwrap());
        Self { image: text("image").into(), vmlinux: text("vmlinux").into(), series }
    }

    /// Has the kernel misbehave. Returns its console output until it reboots.
    pub(crate) fn provoke(&self, point: &Point) -> Vec<u8> {
        let mut hung = String::new();
        for _ in 0..ATTEMPTS {
            match self.run(point) {
                Ok(log) => return log,
                Err(log) => hung = String::from_utf8_lossy(&log).into_owned(),
            }
            // A guest that hangs after it was provoked is not booted again.
            assert!(!hung.contains("provoke: "), "{}: no reboot:\n{hung}", point.name);
        }
        panic!("{}: did not boot, {ATTEMPTS} times:\n{hung}", point.name)
    }

    /// Returns the console output of one guest, as an error if the guest does not end.
    fn run(&self, point: &Point) -> Result<Vec<u8>, Vec<u8>> {
        // For an argument that only one point has, a boot takes no longer than making a checkpoint.
        if !matches!(point.arguments, "" | "slub_debug=FZPU") {
            let folder = tempfile::tempdir().unwrap();
            let append = format!("{} provoke={}", point.arguments, point.name);
            return read_to_end(Reader::of(self.qemu(&append, folder.path()).spawn().unwrap()));
        }
        let Standing { folder, console } = self.standing(point.arguments);
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("gdb");
        let mut qemu = self.qemu(point.arguments, place.path());
        qemu.arg("-S").arg("-gdb").arg(listening(&socket));
        qemu.arg("-incoming").arg(format!("exec:cat '{}'", folder.join("guest").display()));
        let guest = Reader::of(qemu.spawn().unwrap());
        let mut gdb = Gdb::connect(&socket);
        gdb.until("info status", |status| !status.contains("inmigrate"));
        let wanted = std::fs::read_to_string(folder.join("wanted")).unwrap();
        gdb.write(wanted.parse().unwrap(), &[point.name.as_bytes(), b"\0"].concat());
        gdb.detach();
        let whole = |log: Vec<u8>| [console.as_slice(), &log].concat();
        read_to_end(guest).map(whole).map_err(whole)
    }

    /// The guest that was saved before `provoke()`, made once for all processes.
    fn standing(&self, arguments: &str) -> Standing {
        let kernel = self.image.parent().and_then(Path::file_name).unwrap().to_str().unwrap();
        let name = format!("{kernel}-{arguments}");
        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("provoke");
        let folder = all.join(&name);
        std::fs::create_dir_all(&all).unwrap();
        let lock = File::create(all.join(format!("{name}.lock"))).unwrap();
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
        // A guest can only be restored by the version of QEMU that saved it, with the same
        // initramfs.
        let place = tempfile::tempdir_in(&all).unwrap();
        let mut qemu = self.qemu(arguments, place.path());
        let initrd = std::fs::read(place.path().join("initramfs")).unwrap();
        let version = Command::new(qemu.get_program()).arg("--version").output().unwrap().stdout;
        let made_of = blake3::Hasher::new().update(&initrd).update(&version).finalize().to_string();
        if std::fs::read_to_string(folder.join("made-of")).is_ok_and(|text| text == made_of) {
            let console = std::fs::read(folder.join("console")).unwrap();
            return Standing { folder, console };
        }
        let _ = std::fs::remove_dir_all(&folder);
        let socket = place.path().join("gdb");
        qemu.arg("-S").arg("-gdb").arg(listening(&socket));
        let guest = Reader::of(qemu.spawn().unwrap());
        let mut gdb = Gdb::connect(&socket);
        gdb.run_to(self.address("provoke"));
        let state = place.path().join("guest");
        gdb.monitor(&format!("migrate \"exec:cat > '{}'\"", state.display()));
        let end = gdb.until("info migrate", |told| told.contains("completed") || told.contains("failed"));
        assert!(end.contains("completed"), "{end}");
        let console = guest.end();
        std::fs::write(place.path().join("console"), &console).unwrap();
        std::fs::write(place.path().join("wanted"), self.address("wanted").to_string()).unwrap();
        std::fs::write(place.path().join("made-of"), made_of).unwrap();
        std::fs::rename(place.keep(), &folder).unwrap();
        Standing { folder, console }
    }

    /// The address of a symbol. It is the one in vmlinux, because the config has no
    /// `RANDOMIZE_BASE`.
    fn address(&self, symbol: &str) -> u64 {
        let told = Command::new("nm").arg(&self.vmlinux).output().unwrap();
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        let text = String::from_utf8(told.stdout).unwrap();
        let places: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_suffix(symbol)?.strip_suffix(' ')?.split(' ').next())
            .collect();
        let [place] = places[..] else { panic!("{symbol} is at {places:?}") };
        u64::from_str_radix(place, 16).unwrap()
    }

    fn qemu(&self, append: &str, folder: &Path) -> Command {
        let initrd = folder.join("initramfs");
        std::fs::write(&initrd, hotplug::image::initramfs(hotplug::arch::Architecture::X86).unwrap())
            .unwrap();
        let qemu = std::env::var_os("HOTPLUG_QEMU").unwrap_or_else(|| "qemu-system-x86_64".into());
        let mut command = Command::new(qemu);
        command.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "256M"]);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"]);
        // A guest that was saved at a breakpoint must come up as "paused". QEMU aborts at "debug".
        command.args(["-global", "migration.store-global-state=off"]);
        command.args(["-serial", "stdio"]).arg("-kernel").arg(&self.image).arg("-initrd").arg(initrd);
        let always = "console=ttyS0 idle=halt panic=-1 rcupdate.rcu_cpu_stall_timeout=60";
        command.args(["-append", &format!("{always} {append}")]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command
    }
}

/// A saved guest, and its console output until then.
struct Standing {
    folder: PathBuf,
    console: Vec<u8>,
}

fn listening(socket: &Path) -> String {
    format!("unix:{},server=on,wait=off", socket.display())
}

/// A QEMU whose console is read. Dropping the reader kills it.
struct Reader {
    qemu: Child,
    log: Option<thread::JoinHandle<Vec<u8>>>,
    ended: mpsc::Receiver<()>,
}

impl Reader {
    fn of(mut qemu: Child) -> Self {
        let mut stdout = qemu.stdout.take().unwrap();
        let (send, ended) = mpsc::channel();
        let log = thread::spawn(move || {
            let mut log = Vec::new();
            stdout.read_to_end(&mut log).unwrap();
            let _ = send.send(());
            log
        });
        Self { qemu, log: Some(log), ended }
    }

    /// Kills QEMU. Returns the console output.
    fn end(mut self) -> Vec<u8> {
        let _ = self.qemu.kill();
        self.log.take().unwrap().join().unwrap()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        self.qemu.wait().unwrap();
    }
}

/// Returns the console output until QEMU ends, as an error if it has to be killed.
fn read_to_end(guest: Reader) -> Result<Vec<u8>, Vec<u8>> {
    let late = guest.ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout);
    let log = guest.end();
    if late { Err(log) } else { Ok(log) }
}

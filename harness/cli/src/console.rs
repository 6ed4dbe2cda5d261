//! The user's terminal as the console of a guest, and the words of a hand-over.

use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use hotplug::trial::{HandOver, HandOverKind, Handed};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Ctrl-], with which telnet(1) and virsh(1) leave, too.
const LEAVE: u8 = 0x1d;

/// Ctrl-D: the end of the input, for the guest's shell.
const END: u8 = 0x04;

/// The most bytes between the terminal and the guest.
const ROOM: usize = 1 << 16;

/// The state of a terminal before it was raw. Dropping this restores it.
#[derive(Debug)]
struct Raw(Termios);

impl Raw {
    /// Makes the terminal raw: every key goes to the guest, Ctrl-C too. `None` without a terminal.
    fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok().filter(|_| stdin.is_terminal())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// The console while a guest is handed over.
#[derive(Debug, Default)]
struct Console {
    raw: Mutex<Option<Raw>>,
}

impl Console {
    fn set(&self, raw: Option<Raw>) {
        *self.raw.lock().unwrap_or_else(PoisonError::into_inner) = raw;
    }

    fn handle(&self, handed: Handed<'_>) {
        match handed {
            Handed::Shell => {
                say(
                    "shell",
                    "the trial is over; exit or Ctrl-] leaves, and ends the guest; Enter shows a prompt",
                );
                self.set(Raw::enter());
            }
            Handed::ShellEnded => {
                self.set(None);
                eprintln!();
            }
            Handed::Gdb { address, vmlinux, source } => {
                say("gdb", &format!("QEMU's gdbstub is open at {address}; type in another terminal:"));
                for line in gdb_lines(address, vmlinux, source) {
                    say("", &line);
                }
                say("", "Enter here ends the guest; if it panicked, `info threads` shows the CPU");
            }
            Handed::Nothing { why } => say("note", &format!("the guest is not handed over: {why}")),
        }
    }
}

fn say(label: &str, text: &str) {
    eprintln!("{label:<10}{text}");
}

/// The commands of the kernel for gdb, once built
/// (Documentation/process/debugging/gdb-kernel-debugging.rst).
const SCRIPTS: &str = "vmlinux-gdb.py";

/// The line that starts gdb, and where the kernel's own commands are.
fn gdb_lines(address: &str, vmlinux: Option<&Path>, source: Option<&Path>) -> Vec<String> {
    let remote = format!("-ex 'target remote {address}'");
    let Some(vmlinux) = vmlinux else {
        return vec![
            format!("  gdb {remote}"),
            "the kernel was given without a vmlinux, so gdb knows no names".into(),
        ];
    };
    let built =
        [vmlinux.with_file_name(SCRIPTS)].into_iter().chain(source.map(|folder| folder.join(SCRIPTS)));
    let scripts = built.into_iter().find(|file| file.is_file());
    let command = |scripts: &str| format!("  gdb {}{scripts} {remote}", vmlinux.display());
    match (scripts, source) {
        (Some(scripts), _) => {
            vec![
                command(&format!(" -ex 'source {}'", scripts.display())),
                "the kernel's own commands begin with lx-: lx-dmesg, lx-ps, lx-symbols".into(),
            ]
        }
        (None, Some(folder)) if folder.join("scripts/gdb").is_dir() => vec![
            command(""),
            format!("for the kernel's lx- commands: make -C {} scripts_gdb", folder.display()),
        ],
        (None, _) => vec![command("")],
    }
}

/// A user at this process's terminal who gets `wanted`, and the task that prints what the guest
/// prints: it ends with the hand-over.
pub(super) fn user(wanted: HandOverKind) -> (HandOver, JoinHandle<()>) {
    let (ours, theirs) = tokio::io::duplex(ROOM);
    let (printed, typed) = split(ours);
    // Reading standard input cannot be cancelled, so the thread is not waited for.
    let (send, keys) = mpsc::channel(16);
    std::thread::spawn(move || read_keys(&send));
    tokio::spawn(pass_keys(keys, typed, wanted));
    let printing = tokio::spawn(print(printed));
    let console = Arc::new(Console::default());
    let user = HandOver::new(wanted, theirs, Box::new(move |handed| console.handle(handed)));
    (user, printing)
}

fn read_keys(send: &mpsc::Sender<Vec<u8>>) {
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = std::io::stdin().read(&mut buffer) {
        if send.blocking_send(buffer[..length].to_vec()).is_err() {
            return;
        }
    }
}

/// Sends what is typed to the guest, until the key [`LEAVE`].
async fn pass_keys(mut keys: mpsc::Receiver<Vec<u8>>, mut to: WriteHalf<DuplexStream>, wanted: HandOverKind) {
    while let Some(bytes) = keys.recv().await {
        let leave = bytes.iter().position(|byte| *byte == LEAVE).filter(|_| wanted == HandOverKind::Shell);
        if to.write_all(&bytes[..leave.unwrap_or(bytes.len())]).await.is_err() {
            return;
        }
        if leave.is_some() {
            let _ = to.shutdown().await;
            return;
        }
    }
    if wanted == HandOverKind::Shell {
        // The input was a pipe. The shell reads all of it, and then its end.
        let _ = to.write_all(&[END]).await;
    }
    std::future::pending::<()>().await;
}

async fn print(mut from: ReadHalf<DuplexStream>) {
    let mut buffer = vec![0; ROOM];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let mut out = std::io::stdout();
        if out.write_all(&buffer[..length]).and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_for_gdb_names_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let vmlinux = path.join("vmlinux");
        let lines = |source: Option<&Path>| gdb_lines("127.0.0.1:1", Some(&vmlinux), source).join("\n");
        let plain = format!("  gdb {} -ex 'target remote 127.0.0.1:1'", vmlinux.display());
        assert_eq!(lines(None), plain);
        let tree = path.join("linux");
        std::fs::create_dir_all(tree.join("scripts/gdb")).unwrap();
        let make = format!("for the kernel's lx- commands: make -C {} scripts_gdb", tree.display());
        assert_eq!(lines(Some(&tree)), format!("{plain}\n{make}"));
        std::fs::write(tree.join("vmlinux-gdb.py"), "").unwrap();
        assert!(lines(Some(&tree)).contains(&format!("source {}/vmlinux-gdb.py", tree.display())));
        assert!(gdb_lines("a:1", None, None)[1].contains("without a vmlinux"));
    }

    #[tokio::test]
    async fn the_key_that_leaves_ends_the_input_and_is_not_sent() {
        let (send, keys) = mpsc::channel(4);
        let (ours, mut theirs) = tokio::io::duplex(64);
        let (_printed, typed) = split(ours);
        send.send(b"ls\r\x1dnever".to_vec()).await.unwrap();
        pass_keys(keys, typed, HandOverKind::Shell).await;
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"ls\r");
    }
}

//! The ports to the host, read by line and written by one thread. They are ports of virtio-serial,
//! which are found by name (6.1 `drivers/char/virtio_console.c`), or the serial lines that the
//! kernel's command line names.
//!
//! The host side of a virtio-serial port may be absent: before the harness connects, and between
//! the saving of a checkpoint and the connection of the QEMU that restores it. Reads then return 0
//! at once (`port_fops_read`), and writes sleep until the host is back (`will_write_block`). Neither
//! is an error here.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use hotplug_protocol::{AGENT_LINE, AGENT_PORT, AgentEvent, Answer, GuestTime, KMSG_LINE, KMSG_PORT, Say};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::PollTimeout;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::termios::{ControlFlags, SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::time::{ClockId, clock_gettime};

use crate::uevents;

/// The limit of a request. No request of the host is longer.
const LONGEST_LINE_BYTES: usize = 1 << 20;

/// The device nodes of the ports to the host: requests and answers, and records of the kernel.
pub(crate) fn ports() -> io::Result<[PathBuf; 2]> {
    match [AGENT_LINE, KMSG_LINE].map(std::env::var_os) {
        [Some(agent), Some(kmsg)] => Ok([agent, kmsg].map(|tty| Path::new("/dev").join(tty))),
        _ => find([AGENT_PORT, KMSG_PORT]),
    }
}

/// Waits until all ports of virtio-serial with these names exist, and returns their device nodes.
///
/// The name of a port arrives after its node, in a separate message; the driver then sends a
/// `change` uevent.
fn find<const N: usize>(names: [&str; N]) -> io::Result<[PathBuf; N]> {
    let changes = uevents::listen()?;
    let mut datagram = [0; uevents::LONGEST_BYTES];
    loop {
        let mut nodes = names.map(|_| PathBuf::new());
        for entry in std::fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if let Some(place) = names.iter().position(|wanted| *wanted == name.trim_end()) {
                nodes[place] = Path::new("/dev").join(entry.file_name());
            }
        }
        if nodes.iter().all(|node| node.exists()) {
            return Ok(nodes);
        }
        // Lost uevents do no harm here: all of sysfs is read again anyway.
        match uevents::receive(&changes, &mut datagram) {
            Ok(_) | Err(Errno::ENOBUFS) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Opens the port for requests, in both directions: a port allows only one open file
/// (`port_fops_open`).
pub(crate) fn open(node: &Path) -> io::Result<(Lines, Outbox)> {
    let port = Arc::new(open_port(node)?);
    let (sender, receiver) = mpsc::channel();
    let writer = Arc::clone(&port);
    crate::spawn("agent-out", move || forward(&writer, &receiver))?;
    Ok((Lines::new(port)?, Outbox(sender)))
}

/// Opens a port. A serial line passes on all bytes as they are.
pub(crate) fn open_port(node: &Path) -> io::Result<File> {
    let port = File::options().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(node)?;
    match tcgetattr(&port) {
        Ok(mut line) => {
            cfmakeraw(&mut line);
            // The line has no modem that could hang up.
            line.control_flags |= ControlFlags::CLOCAL;
            tcsetattr(&port, SetArg::TCSANOW, &line)?;
        }
        Err(Errno::ENOTTY) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(port)
}

/// The only writer of the port, so that lines never interleave. It needs no lock, which could be
/// held while the host is absent, or by a thread that an oops ended.
fn forward(mut port: &File, lines: &Receiver<Vec<u8>>) {
    for line in lines {
        if let Err(error) = send(&mut port, &line) {
            eprintln!("hotplug agent: cannot write to the host: {error}");
            return;
        }
    }
}

/// Writes all of `bytes`, and sleeps while the host is absent.
pub(crate) fn send(port: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    /// For resources that no event announces: memory for a buffer (`alloc_buf`), a slot in the
    /// queue (`__send_to_port`).
    const PAUSE: Duration = Duration::from_millis(1);
    while !bytes.is_empty() {
        match port.write(bytes) {
            Ok(0) => std::thread::sleep(PAUSE),
            Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

/// The queue of answers and events. It is cheap to clone and never blocks.
#[derive(Debug, Clone)]
pub(crate) struct Outbox(Sender<Vec<u8>>);

impl Outbox {
    pub(crate) fn answer(&self, id: u64, answer: Answer) {
        self.say(&Say::Answer { id, at: now(), answer });
    }

    pub(crate) fn event(&self, event: AgentEvent) {
        self.say(&Say::Event { at: now(), event });
    }

    /// Reports that a part of the agent failed: the trial is not valid.
    pub(crate) fn broken(&self, what: impl Into<String>) {
        self.event(AgentEvent::Broken { what: what.into() });
    }

    fn say(&self, say: &Say) {
        match serde_json::to_vec(say) {
            Ok(mut line) => {
                line.push(b'\n');
                // The writer ends only if the port is gone, and has then printed that on the
                // console.
                let _ = self.0.send(line);
            }
            Err(error) => eprintln!("hotplug agent: cannot encode {say:?}: {error}"),
        }
    }
}

/// The guest's `CLOCK_MONOTONIC`, which always exists.
pub(crate) fn now() -> GuestTime {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    GuestTime(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

/// The lines that the host sends.
pub(crate) struct Lines {
    port: Arc<File>,
    changes: Epoll,
    pending: Vec<u8>,
}

impl Lines {
    fn new(port: Arc<File>) -> io::Result<Self> {
        // Level-triggered poll() is of no use: it returns POLLIN | POLLHUP at once, for ever, if
        // the host is absent. An edge comes with each wake-up of the port's wait queue: data, or a
        // host that comes or goes.
        let changes = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        changes.add(port.as_fd(), EpollEvent::new(interest, 0))?;
        Ok(Self { port, changes, pending: Vec::new() })
    }

    /// The next line, without its newline. Waits for it, and for the host if necessary.
    pub(crate) fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.pending.drain(..=end).collect();
                line.pop();
                return Ok(line);
            }
            if self.pending.len() > LONGEST_LINE_BYTES {
                return Ok(std::mem::take(&mut self.pending));
            }
            let mut chunk = [0; 4096];
            match (&*self.port).read(&mut chunk) {
                // The host is absent, and will not complete the line that it had begun.
                Ok(0) => {
                    self.pending.clear();
                    let mut changed = [EpollEvent::empty()];
                    match self.changes.wait(&mut changed, PollTimeout::NONE) {
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(length) => self.pending.extend_from_slice(chunk.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

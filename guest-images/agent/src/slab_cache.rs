//! A slab cache that user space can create and destroy: the 9p client creates one for itself as
//! soon as the version is agreed on, and destroys it if the mount fails (6.1 net/9p/client.c,
//! `p9_client_create`, `p9_client_destroy`).
//!
//! The load has two processes: the worker is the server, and its child mounts. A mount that waits
//! for an answer cannot be killed in all places (`p9_client_rpc` clears the signal and waits for
//! its flush), but it ends when the server hangs up, and a killed server has hung up. If both were
//! in one process, the stuck mount would keep the server's side open.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::plan9::{self, End};
use crate::worker::Loop;

/// The error with which the attach is refused. Nothing before the attach fails with it, so a mount
/// that fails with it was refused there.
const REFUSAL: Errno = Errno::EHOSTDOWN;

/// The server's side of a worker.
#[derive(Debug)]
pub(crate) struct SlabCache(UnixListener);

impl SlabCache {
    /// Starts the child and rejects it once, to check that the kernel has all that the load needs.
    pub(crate) fn new(worker: u32) -> io::Result<Self> {
        let filesystems = std::fs::read_to_string("/proc/filesystems")?;
        if !filesystems.split_whitespace().any(|name| name == "9p") {
            return Err(io::Error::other("the kernel has no 9p: it needs CONFIG_9P_FS"));
        }
        let path = path(worker);
        let cache = Self(UnixListener::bind(&path)?);
        keep_mounting(path)?;
        match cache.turn_away()? {
            End::Refused => Ok(cache),
            End::Early => {
                Err(io::Error::other("a mount of 9p ended before it attached: it needs CONFIG_NET_9P_FD"))
            }
        }
    }

    /// The client hangs up when the last process closes its socket: the child, after mount(2) has
    /// returned.
    fn turn_away(&self) -> io::Result<End> {
        let (mut client, _) = self.0.accept()?;
        plan9::serve(&mut client, REFUSAL as u32)
    }

    /// Removes the leftovers of a killed worker.
    pub(crate) fn clean_up(worker: u32) {
        let _ = std::fs::remove_file(path(worker));
    }
}

impl Loop for SlabCache {
    /// Makes the kernel create and destroy one cache.
    fn once(&mut self) -> io::Result<()> {
        match self.turn_away()? {
            End::Refused => Ok(()),
            // Without memory a mount ends early.
            End::Early => Err(Errno::ENOMEM.into()),
        }
    }
}

fn path(worker: u32) -> PathBuf {
    format!("/run/9p-{worker}").into()
}

/// Starts the child again whenever it ends: the OOM killer may end it alone, and no process would
/// mount.
fn keep_mounting(path: PathBuf) -> io::Result<()> {
    const PAUSE: Duration = Duration::from_millis(10);
    crate::spawn("load-mounts", move || {
        loop {
            let mut child = Command::new("/proc/self/exe");
            // The worker's standard output is the file for its count. Its error output is read to
            // the end if it fails.
            child.args(["mount".as_ref(), path.as_os_str()]).stdout(Stdio::null()).stderr(Stdio::null());
            let _ = child.status();
            std::thread::sleep(PAUSE);
        }
    })
}

/// `/init mount PATH`: mounts the file system of the server at `path` again and again, until the
/// server is gone.
pub(crate) fn mount_for_ever(path: &Path) -> io::Result<Infallible> {
    let options = |socket: i32| {
        // Newer kernels merge caches of about one size (mm/slab_common.c, `find_mergeable`), so
        // this cache gets a size of its own.
        let message_bytes = 5000 + 16 * (std::process::id() % 500);
        format!("trans=fd,rfdno={socket},wfdno={socket},version=9p2000.L,msize={message_bytes}")
    };
    loop {
        let server = UnixStream::connect(path)?;
        let options = options(server.as_raw_fd());
        match mount(Some("load"), "/tmp", Some("9p"), MsFlags::empty(), Some(options.as_str())) {
            // The server sees at which point the mount failed.
            Err(_) => {}
            Ok(()) => return Err(io::Error::other("a mount succeeded that the server should have refused")),
        }
    }
}

//! A load of requests of `io_uring` that its worker threads take. The threads are bound to the CPUs
//! that there are, and are told of each that comes or goes (io_uring/io-wq.c, `io_wq_cpu_online`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::squeue::Flags;
use io_uring::{IoUring, opcode, types};

use crate::worker::{Loop, lacks};

/// Requests of a loop.
const REQUESTS: u32 = 8;

/// A ring, and the file that its requests flush.
pub(crate) struct Uring {
    ring: IoUring,
    file: File,
}

impl Uring {
    pub(crate) fn new() -> io::Result<Self> {
        let ring = IoUring::new(REQUESTS).map_err(lacks("io_uring", "CONFIG_IO_URING"))?;
        Ok(Self { ring, file: File::open("/proc/self/exe")? })
    }
}

impl Loop for Uring {
    #[expect(unsafe_code, reason = "the kernel keeps what a request names until it has ended")]
    fn once(&mut self) -> io::Result<()> {
        for _ in 0..REQUESTS {
            let request = opcode::Fsync::new(types::Fd(self.file.as_raw_fd())).build().flags(Flags::ASYNC);
            // SAFETY: the request has no memory, and its file is open for as long as the ring.
            unsafe { self.ring.submission().push(&request) }.map_err(io::Error::other)?;
        }
        self.ring.submit_and_wait(REQUESTS as usize)?;
        self.ring.completion().for_each(drop);
        Ok(())
    }
}

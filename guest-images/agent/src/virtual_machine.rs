//! A load of virtual machines. While there is one, every CPU that comes is prepared for it, and every
//! CPU that goes is not (`virt/kvm/kvm_main.c`, `kvm_online_cpu`).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use crate::worker::{Loop, lacks};

/// The newest machine.
#[derive(Debug)]
pub(crate) struct VirtualMachine {
    kvm: File,
    machine: OwnedFd,
}

impl VirtualMachine {
    pub(crate) fn new() -> io::Result<Self> {
        let kvm = File::options().read(true).write(true).open("/dev/kvm");
        let kvm = kvm.map_err(lacks("/dev/kvm", "CONFIG_KVM and a processor for it"))?;
        let machine = create(&kvm)?;
        Ok(Self { kvm, machine })
    }
}

impl Loop for VirtualMachine {
    /// Replaces the machine by a new one, so that there always is one.
    fn once(&mut self) -> io::Result<()> {
        self.machine = create(&self.kvm)?;
        Ok(())
    }
}

/// A machine without CPUs and memory.
#[expect(unsafe_code, reason = "no safe call covers this ioctl")]
fn create(kvm: &File) -> io::Result<OwnedFd> {
    /// include/uapi/linux/kvm.h.
    const CREATE_VM: libc::c_ulong = nix::request_code_none!(0xae, 0x01);
    // SAFETY: the argument is the kind of the machine, a number.
    let fd = Errno::result(unsafe { libc::ioctl(kvm.as_raw_fd(), CREATE_VM, 0) })?;
    // SAFETY: the system call has just returned the descriptor, which no other code has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

//! Kernel uevents (6.1 `lib/kobject_uevent.c`) over netlink: the kernel announces devices that come
//! and go, and the agent never polls.
//!
//! Polling would do harm: on an unpatched 6.1, a task inside `cpuN/online` while that CPU is
//! ejected makes lockdep report a cycle of `cpu_hotplug_lock` and `kn->active`.

use std::os::fd::{AsRawFd, OwnedFd};

use hotplug_protocol::AgentEvent;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};

use crate::channel::Outbox;
use crate::{serve, snapshot};

/// 2 KiB of environment (`UEVENT_BUFFER_SIZE`, include/linux/kobject.h) after `action@devpath`.
pub(crate) const LONGEST_BYTES: usize = 8 << 10;

/// Room for some thousand uevents: a DIMM of 8 GiB brings 64 blocks, each with `add` and `online`.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// The multicast group that the kernel itself sends to; 2 is udev's.
const KERNEL_GROUP: u32 = 1;

/// A socket that collects uevents from now on.
pub(crate) fn listen() -> nix::Result<OwnedFd> {
    let protocol = SockProtocol::NetlinkKObjectUEvent;
    let socket = socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
    Ok(socket)
}

/// The length of the next uevent. `ENOBUFS` means that some were lost.
pub(crate) fn receive(socket: &OwnedFd, datagram: &mut [u8]) -> nix::Result<usize> {
    loop {
        match recv(socket.as_raw_fd(), datagram, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Reports uevents of CPUs, memory and persistent memory, and brings new CPUs online, in a thread
/// of its own.
pub(crate) fn start(socket: OwnedFd, out: Outbox) -> std::io::Result<()> {
    // A CPU may have come while the kernel booted, before this socket was open.
    let online = snapshot::cpus("online").unwrap_or_default();
    for cpu in snapshot::cpus("present").unwrap_or_default() {
        if !online.contains(&cpu) {
            bring_online(cpu, &out);
        }
    }
    crate::spawn("agent-uevents", move || {
        let mut datagram = [0; LONGEST_BYTES];
        loop {
            match receive(&socket, &mut datagram) {
                Ok(length) => report(datagram.get(..length).unwrap_or_default(), &out),
                // The kernel had no memory for a copy, because it was to fail
                // (net/netlink/af_netlink.c, do_one_broadcast).
                Err(Errno::ENOBUFS) if serve::may_have_failed() => {}
                Err(Errno::ENOBUFS) => out.broken("uevents were lost: the socket's buffer was full"),
                Err(error) => return out.broken(format!("cannot receive uevents: {error}")),
            }
        }
    })
}

fn report(datagram: &[u8], out: &Outbox) {
    let Some(uevent) = Uevent::parse(datagram) else {
        return;
    };
    let (action, devpath) = (uevent.action.to_owned(), uevent.devpath.to_owned());
    out.event(AgentEvent::Uevent { action, devpath });
    if let ("add", Some(cpu)) = (uevent.action, uevent.cpu()) {
        bring_online(cpu, out);
    }
}

/// Brings a CPU online, in a thread of its own: the write waits for `device_hotplug_lock`, and may
/// oops.
fn bring_online(cpu: u32, out: &Outbox) {
    let answer = out.clone();
    let started = crate::spawn("agent-online", move || {
        let written = serve::write(&format!("/sys/devices/system/cpu/cpu{cpu}/online"), "1");
        let errno = written.err().map_or(0, |error| serve::errno(&error));
        answer.event(AgentEvent::CpuOnline { cpu, errno });
    });
    if let Err(error) = started {
        out.event(AgentEvent::CpuOnline { cpu, errno: serve::errno(&error) });
    }
}

/// One uevent of a CPU, a memory block or persistent memory.
#[derive(Debug, PartialEq, Eq)]
struct Uevent<'a> {
    action: &'a str,
    devpath: &'a str,
}

impl<'a> Uevent<'a> {
    /// `ACTION@DEVPATH`, then `KEY=VALUE` strings, each ended by a zero byte. `None` for other
    /// subsystems.
    fn parse(datagram: &'a [u8]) -> Option<Self> {
        let mut strings =
            datagram.split(|byte| *byte == 0).map(|string| std::str::from_utf8(string).unwrap_or_default());
        let (action, devpath) = strings.next()?.split_once('@')?;
        strings
            .any(|entry| matches!(entry, "SUBSYSTEM=cpu" | "SUBSYSTEM=memory" | "SUBSYSTEM=nd"))
            .then_some(Self { action, devpath })
    }

    fn cpu(&self) -> Option<u32> {
        self.devpath.strip_prefix("/devices/system/cpu/cpu")?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // As received in a guest with 6.1.192; MODALIAS shortened.
    const CPU: &[u8] =
        b"add@/devices/system/cpu/cpu2\0ACTION=add\0DEVPATH=/devices/system/cpu/cpu2\0SUBSYSTEM=cpu\0\
        MODALIAS=cpu:type:x86,ven0002fam0006mod0006:feature:,0000,0002\n\0SEQNUM=950\0";
    const MEMORY: &[u8] = b"online@/devices/system/memory/memory32\0ACTION=online\0\
        DEVPATH=/devices/system/memory/memory32\0SUBSYSTEM=memory\0SEQNUM=949\0";
    const THERMAL: &[u8] = b"add@/devices/virtual/thermal/cooling_device2\0ACTION=add\0\
        DEVPATH=/devices/virtual/thermal/cooling_device2\0SUBSYSTEM=thermal\0SEQNUM=952\0";

    #[test]
    fn a_cpu_that_came_has_a_number() {
        let uevent = Uevent::parse(CPU).unwrap();
        assert_eq!(
            (uevent.action, uevent.devpath, uevent.cpu()),
            ("add", "/devices/system/cpu/cpu2", Some(2))
        );
    }

    #[test]
    fn a_memory_block_is_no_cpu() {
        let uevent = Uevent::parse(MEMORY).unwrap();
        assert_eq!((uevent.action, uevent.cpu()), ("online", None));
    }

    #[test]
    fn what_is_not_ours_is_passed_over() {
        for datagram in [THERMAL, b"", b"libudev\0\xfe\xed\xca\xfe", b"@\0", CPU.get(..30).unwrap()] {
            assert_eq!(Uevent::parse(datagram), None);
        }
    }
}

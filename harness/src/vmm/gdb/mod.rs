//! A client for QEMU's gdbstub, with the requests that holding a vCPU needs: set breakpoints,
//! resume chosen vCPUs, read registers and memory (gdb's manual, "Remote Protocol"; QEMU's
//! gdbstub/gdbstub.c). The stub works in all-stop mode: while this client inspects the machine, all
//! vCPUs are stopped, and so is guest time.

mod packet;

pub(crate) use packet::little;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::arch::GdbRegisters;
use crate::limits::limits;

/// The most memory that QEMU returns for one request, in bytes: half of `MAX_PACKET_LENGTH` of its
/// gdbstub/internals.h.
const CHUNK: u64 = 2048;

/// Why the stub can no longer be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GdbError {
    /// The connection has ended, or the stub does not answer.
    #[error("QEMU's gdbstub is gone: {0}")]
    Gone(String),
    /// The answer does not fit the request.
    #[error("QEMU's gdbstub sent an unexpected answer: {0}")]
    Odd(String),
}

type Result<T> = std::result::Result<T, GdbError>;

fn gone(error: impl std::fmt::Display) -> GdbError {
    GdbError::Gone(error.to_string())
}

/// A vCPU, by the stub's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vcpu(u32);

/// Why the machine stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A vCPU reached a breakpoint or completed a single step.
    Trapped(Vcpu),
    /// The machine was stopped by a request, of this client or by QMP.
    Asked,
}

/// The registers of a stopped vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// The address of the next instruction.
    pub program_counter: u64,
    /// The top of the stack. At a function's entry, the return address is there.
    pub stack_pointer: u64,
    /// The start of the per-CPU area, while the CPU is in the kernel.
    pub per_cpu: u64,
    /// Whether interrupts are enabled (`IF` of `eflags`).
    pub interruptible: bool,
}

/// A handle to the gdbstub of one QEMU. Dropping it leaves the machine as it is (see
/// [`Gdb::detach`]).
#[derive(Debug)]
pub struct Gdb {
    stream: UnixStream,
    numbers: &'static GdbRegisters,
    inbox: Vec<u8>,
    runs: bool,
    /// The addresses of the breakpoints.
    breaks: Vec<u64>,
    /// The vCPUs that have the breakpoints: those of the last list of vCPUs.
    armed: Vec<Vcpu>,
    /// The vCPU whose registers are read, and whose page tables translate addresses of memory.
    selected: Option<Vcpu>,
}

/// The boot CPU, which cannot be unplugged. A CPU that was plugged and has not started yet has no
/// page tables.
const BOOT: Vcpu = Vcpu(1);

impl Gdb {
    /// Takes over a connected socket and stops the running machine, whose registers have these
    /// numbers.
    pub async fn attach(stream: UnixStream, numbers: &'static GdbRegisters) -> Result<Self> {
        let mut gdb = Self {
            stream,
            numbers,
            inbox: Vec::new(),
            runs: true,
            breaks: Vec::new(),
            armed: Vec::new(),
            selected: None,
        };
        gdb.stop().await?;
        Ok(gdb)
    }

    /// Stops the machine. Returns why it stopped, which may be a trap that came first.
    pub async fn stop(&mut self) -> Result<Stop> {
        if !self.runs {
            return Ok(Stop::Asked);
        }
        self.stream.write_all(&[3]).await.map_err(gone)?;
        tokio::time::timeout(limits().gdbstub, self.stopped())
            .await
            .map_err(|_| Self::silent("a request to stop"))?
    }

    /// Waits until the machine stops. Safe to cancel.
    pub async fn stopped(&mut self) -> Result<Stop> {
        let text = self.packet().await?;
        self.runs = false;
        // QEMU selects the vCPU that stopped.
        self.selected = None;
        let odd = || GdbError::Odd(format!("`{text}` in place of the reason of a stop"));
        let (signal, thread) = match text.split_at_checked(1) {
            Some(("T", rest)) => {
                let (signal, pairs) = rest.split_at_checked(2).ok_or_else(odd)?;
                (signal, pairs.split(';').find_map(|pair| pair.strip_prefix("thread:")))
            }
            Some(("W" | "X", _)) => return Err(gone("the machine has ended")),
            _ => return Err(odd()),
        };
        match signal {
            // SIGTRAP of gdb's numbers.
            "05" => Ok(Stop::Trapped(vcpu(thread.ok_or_else(odd)?).ok_or_else(odd)?)),
            _ => Ok(Stop::Asked),
        }
    }

    /// The current vCPUs. QEMU sets no breakpoints in a vCPU that is plugged later
    /// (accel/tcg/tcg-accel-ops.c, `tcg_insert_breakpoint`: only in the vCPUs of that time). So all
    /// breakpoints are set again if there is a new vCPU.
    pub async fn vcpus(&mut self) -> Result<Vec<Vcpu>> {
        let all = self.threads().await?;
        if all.iter().any(|vcpu| !self.armed.contains(vcpu)) {
            for address in self.breaks.clone() {
                self.forget(address).await?;
                self.order(&format!("Z1,{address:x},1")).await?;
            }
        }
        self.armed.clone_from(&all);
        Ok(all)
    }

    async fn threads(&mut self) -> Result<Vec<Vcpu>> {
        let mut all = Vec::new();
        let mut question = "qfThreadInfo";
        loop {
            let text = self.ask(question).await?;
            let Some(list) = text.strip_prefix('m') else { break };
            let each = list.split(',').map(|one| vcpu(one).ok_or_else(|| GdbError::Odd(text.clone())));
            all.extend(each.collect::<Result<Vec<_>>>()?);
            question = "qsThreadInfo";
        }
        Ok(all)
    }

    /// Sets a breakpoint in every vCPU, before the instruction at `address`. If there is one
    /// already, nothing changes.
    pub async fn break_at(&mut self, address: u64) -> Result<()> {
        if !self.breaks.contains(&address) {
            self.breaks.push(address);
            self.order(&format!("Z1,{address:x},1")).await?;
        }
        Ok(())
    }

    /// Removes the breakpoint at `address`.
    pub async fn unbreak(&mut self, address: u64) -> Result<()> {
        self.breaks.retain(|known| *known != address);
        self.forget(address).await
    }

    /// Removes a breakpoint in QEMU. QEMU's error is ignored: it means that a vCPU was plugged
    /// since, which, like every later one, never had the breakpoint.
    async fn forget(&mut self, address: u64) -> Result<()> {
        self.ask(&format!("z1,{address:x},1")).await.map(drop)
    }

    /// Resumes these vCPUs, at least one, and no others.
    pub async fn run(&mut self, vcpus: &[Vcpu]) -> Result<()> {
        let each: Vec<String> = vcpus.iter().map(|Vcpu(number)| format!(";c:{number:02x}")).collect();
        self.send(&format!("vCont{}", each.concat())).await?;
        self.runs = true;
        Ok(())
    }

    /// Runs one instruction on one vCPU, even at a breakpoint, with its interrupts off (QEMU's
    /// `SSTEP_NOIRQ`).
    pub async fn step(&mut self, Vcpu(number): Vcpu) -> Result<()> {
        self.send(&format!("vCont;s:{number:02x}")).await?;
        self.runs = true;
        let stopped = tokio::time::timeout(limits().gdbstub, self.stopped()).await;
        stopped.map_err(|_| Self::silent("a step"))?.map(drop)
    }

    /// Records that the machine was resumed or stopped by QMP, which the stub does not report.
    pub fn other_word(&mut self, runs: bool) {
        self.runs = runs;
        // QEMU selects the vCPU that traps, whether or not the stub reports the trap (accel/tcg,
        // `cpu_handle_guest_debug()`).
        self.selected = None;
    }

    /// The first of these vCPUs that is at a breakpoint. The stub does not report a trap in a
    /// machine that QMP resumed.
    pub async fn trapped(&mut self, vcpus: &[Vcpu]) -> Result<Option<Vcpu>> {
        for vcpu in vcpus {
            self.select(*vcpu).await?;
            let at = self.register(self.numbers.program_counter).await?;
            if self.breaks.contains(&at) {
                return Ok(Some(*vcpu));
            }
        }
        Ok(None)
    }

    /// Where these vCPUs are, in words.
    pub async fn places(&mut self, vcpus: &[Vcpu]) -> Result<String> {
        let mut all = Vec::new();
        for vcpu in vcpus {
            let at = self.registers(*vcpu).await?.program_counter;
            all.push(format!("vCPU {} at {at:#x}", vcpu.0));
        }
        Ok(all.join(", "))
    }

    /// The registers of a vCPU.
    pub async fn registers(&mut self, vcpu: Vcpu) -> Result<Registers> {
        self.select(vcpu).await?;
        let numbers = self.numbers;
        Ok(Registers {
            program_counter: self.register(numbers.program_counter).await?,
            stack_pointer: self.register(numbers.stack_pointer).await?,
            per_cpu: self.register(numbers.per_cpu).await?,
            interruptible: self.register(numbers.flags).await? & numbers.interruptible != 0,
        })
    }

    async fn select(&mut self, vcpu: Vcpu) -> Result<()> {
        if self.selected != Some(vcpu) {
            self.order(&format!("Hg{:02x}", vcpu.0)).await?;
            self.selected = Some(vcpu);
        }
        Ok(())
    }

    async fn register(&mut self, number: u32) -> Result<u64> {
        let text = self.ask(&format!("p{number:x}")).await?;
        let bytes = packet::bytes(&text).map_err(GdbError::Odd)?;
        if bytes.len() > 8 {
            return Err(GdbError::Odd(text));
        }
        Ok(little(&bytes))
    }

    /// Sets the instruction pointer of a vCPU.
    pub async fn go_on_at(&mut self, vcpu: Vcpu, address: u64) -> Result<()> {
        self.select(vcpu).await?;
        // The value is in the byte order of memory, the lowest byte first.
        let number = self.numbers.program_counter;
        self.order(&format!("P{number:x}={:016x}", address.swap_bytes())).await
    }

    /// Reads memory at a virtual address of the kernel. `None` if nothing is mapped there.
    pub async fn read(&mut self, address: u64, bytes: u64) -> Result<Option<Vec<u8>>> {
        self.select(BOOT).await?;
        let mut all = Vec::new();
        let mut from = 0;
        while from < bytes {
            let length = (bytes - from).min(CHUNK);
            let text = self.ask(&format!("m{:x},{length:x}", address.wrapping_add(from))).await?;
            if text.starts_with('E') {
                return Ok(None);
            }
            let some = packet::bytes(&text).map_err(GdbError::Odd)?;
            if some.len() as u64 != length {
                return Err(GdbError::Odd(format!("{} bytes instead of {length}", some.len())));
            }
            all.extend(some);
            from += length;
        }
        Ok(Some(all))
    }

    /// Reads a pointer, or another word of 8 bytes.
    pub async fn word(&mut self, address: u64) -> Result<Option<u64>> {
        Ok(self.read(address, 8).await?.map(|bytes| little(&bytes)))
    }

    /// Removes all breakpoints and resumes all vCPUs.
    pub async fn detach(mut self) -> Result<()> {
        self.stop().await?;
        self.order("D").await
    }

    async fn order(&mut self, text: &str) -> Result<()> {
        match self.ask(text).await?.as_str() {
            "OK" => Ok(()),
            other => Err(GdbError::Odd(format!("`{other}` to {text}"))),
        }
    }

    async fn ask(&mut self, text: &str) -> Result<String> {
        self.send(text).await?;
        tokio::time::timeout(limits().gdbstub, self.packet()).await.map_err(|_| Self::silent(text))?
    }

    async fn send(&mut self, text: &str) -> Result<()> {
        self.stream.write_all(&packet::encode(text)).await.map_err(gone)
    }

    /// The next packet. Safe to cancel, because the bytes received so far are kept.
    async fn packet(&mut self) -> Result<String> {
        loop {
            if let packet::Begin::Packet(text, length) = packet::decode(&self.inbox).map_err(GdbError::Odd)? {
                self.inbox.drain(..length);
                self.stream.write_all(b"+").await.map_err(gone)?;
                return Ok(text);
            }
            if self.stream.read_buf(&mut self.inbox).await.map_err(gone)? == 0 {
                return Err(gone("connection closed"));
            }
        }
    }

    fn silent(to: &str) -> GdbError {
        gone(format!("no answer to {to} within {} s", limits().gdbstub.as_secs_f64()))
    }
}

fn vcpu(text: &str) -> Option<Vcpu> {
    u32::from_str_radix(text, 16).ok().map(Vcpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stub that sends these packets one after another, whatever the requests are.
    async fn says(words: &[&str]) -> Gdb {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        for word in words {
            theirs.write_all(&packet::encode(word)).await.unwrap();
        }
        tokio::spawn(async move {
            let mut heard = [0; 256];
            while theirs.read(&mut heard).await.is_ok_and(|length| length > 0) {}
        });
        Gdb::attach(ours, crate::arch::Architecture::X86.table().registers.unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_trap_that_comes_before_the_request_to_stop_is_told() {
        let mut gdb =
            says(&["T02thread:01;", "T05thread:03;", "OK", "m01,02", "m0a", "l", "E22", "OK"]).await;
        gdb.run(&[Vcpu(1)]).await.unwrap();
        assert_eq!(gdb.stop().await, Ok(Stop::Trapped(Vcpu(3))));
        gdb.break_at(0x1000).await.unwrap();
        assert_eq!(gdb.vcpus().await, Ok(vec![Vcpu(1), Vcpu(2), Vcpu(10)]));
        // All of them have the breakpoint now, so nothing more is sent.
        assert_eq!((gdb.inbox.len(), gdb.armed.len()), (0, 3));
    }

    #[tokio::test]
    async fn the_end_of_the_machine_is_told_from_nonsense() {
        let mut gdb = says(&["T02thread:01;", "W00", "OK", "E22", "00112233", "hello"]).await;
        assert!(matches!(gdb.stopped().await, Err(GdbError::Gone(what)) if what.contains("has ended")));
        assert_eq!(gdb.read(0, 4).await, Ok(None));
        assert!(matches!(gdb.read(0, 2).await, Err(GdbError::Odd(_))));
        assert!(matches!(gdb.break_at(0).await, Err(GdbError::Odd(what)) if what.contains("hello")));
    }
}

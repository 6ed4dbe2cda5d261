//! A guest: QEMU, its monitor, and the guest's agent, kernel records and serial console.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hotplug_protocol::{AgentEvent, Hello, Request};
use hotplug_side::Side;
use tokio::net::UnixStream;

use super::TrialContext;
use super::checkpoint::Checkpoint;
use crate::arch::Arch;
use crate::bytes::Bytes;
use crate::event_log::{Ending, Event, EventLog, Stage};
use crate::guest::{Agent, Kmsg, Serial};
use crate::host::{Accelerator, KVM_DEVICE};
use crate::limits::limits;
use crate::output::Output;
use crate::vmm::gdb::{Gdb, GdbError};
use crate::vmm::qmp::commands::{
    ContinueVcpus, Migrate, MigrateIncoming, MigrateSetCapabilities, MigrationCapability, Pmemsave,
    SetShutdownAction, StopVcpus,
};
use crate::vmm::qmp::{Qmp, QmpError};
use crate::vmm::{Ended, Inherited, LaunchMode, QemuProcess, Scratch, VmmEvent, shell_words};
use crate::{Error, Result};

/// The most that is quoted of the end of QEMU's standard error, in bytes.
const WORDS: usize = 1000;

/// A guest. Dropping it ends its QEMU.
#[derive(Debug)]
pub(super) struct Vm {
    pub(super) arch: &'static Arch,
    pub(super) qmp: Qmp,
    pub(super) agent: Agent,
    pub(super) kmsg: Kmsg,
    pub(super) serial: Serial,
    machine: QemuProcess,
    /// The socket of the gdbstub, until [`Vm::gdb`] takes it.
    gdb: Mutex<Option<UnixStream>>,
    pub(super) probe: Scratch,
    /// Whether the guest stays when it shuts down or resets itself.
    stays: bool,
    /// The folder of its current trial.
    pub(super) dir: PathBuf,
    pub(super) event_log: Arc<EventLog>,
}

/// The state from which a guest starts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin<'a> {
    /// Its kernel's entry.
    Kernel,
    /// Its kernel's entry. Its memory, and at the end its state, are in these files.
    Template { memory: &'a Scratch, state: &'a Scratch },
    /// A checkpoint.
    Checkpoint(&'a Checkpoint),
}

impl Origin<'_> {
    fn start(self) -> LaunchMode {
        match self {
            Self::Kernel => LaunchMode::Cold,
            Self::Template { .. } => LaunchMode::Template,
            Self::Checkpoint(_) => LaunchMode::Restored,
        }
    }

    fn files(self) -> Result<Vec<(Inherited, OwnedFd)>> {
        let (memory, state) = match self {
            Self::Kernel => return Ok(Vec::new()),
            Self::Template { memory, state } => (memory.handle()?, state.handle()?),
            Self::Checkpoint(checkpoint) => (checkpoint.memory.handle()?, checkpoint.state.handle()?),
        };
        Ok(vec![(Inherited::Memory, memory), (Inherited::State, state)])
    }
}

/// The reason why a stage ended before it was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cut {
    /// QEMU ended by itself.
    Ended(Ended),
    /// The console showed a panic.
    Panicked,
    /// The guest is silent or does not answer.
    Hung(String),
    /// The agent sent an invalid message, a connection was lost, or a checkpoint failed.
    Broken(String),
}

impl Cut {
    /// The reason as text.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Ended(ended) => ended.to_string(),
            Self::Panicked => "the kernel panicked".into(),
            Self::Hung(what) | Self::Broken(what) => what.clone(),
        }
    }
}

impl From<Ending> for Cut {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Panicked => Self::Panicked,
            Ending::Broken(what) => Self::Broken(what),
        }
    }
}

impl Vm {
    /// Starts QEMU with one side's kernel in the trial's folder `dir`, and waits until its monitor
    /// answers.
    ///
    /// A guest from a checkpoint waits for [`Vm::restore`]. Any other guest boots. Every error is
    /// an infrastructure error.
    pub(super) async fn start(
        context: &TrialContext,
        side: Side,
        origin: Origin<'_>,
        dir: &Path,
        event_log: &Arc<EventLog>,
    ) -> Result<Self> {
        let begins = origin.start();
        let arguments = context.command_line(begins);
        write_command(dir, &context.qemu.path, &arguments)?;
        event_log.record(Event::Stage(Stage::Started));
        let mut files = origin.files()?;
        let (_, dimm_file) = context.scenario.dimm_file();
        if dimm_file.0 > 0 {
            files.push((Inherited::DimmFile, Scratch::new(dimm_file)?.handle()?));
        }
        if context.accelerator == Accelerator::Kvm {
            let device = fs_err::File::options().read(true).write(true).open(KVM_DEVICE)?;
            files.push((Inherited::Kvm, device.into_parts().0.into()));
        }
        let probe = Scratch::new(Bytes(0))?;
        files.push((Inherited::Probe, probe.handle()?));
        files.push((Inherited::Kernel, context.kernels.of(side).handle()?));
        files.push((Inherited::Initrd, context.initrd.of(side).handle()?));
        let stderr = dir.join("qemu.stderr");
        let (machine, streams) = QemuProcess::start(
            &context.qemu.path,
            &arguments,
            files,
            context.has_gdb(begins),
            context.identity,
            &stderr,
        )?;
        let serial = Serial::read(streams.serial, &dir.join("serial.log"), event_log.clone()).await?;
        let newest = match origin {
            Origin::Checkpoint(checkpoint) => checkpoint.newest_record(),
            _ => None,
        };
        let kmsg = Kmsg::read(streams.kmsg, &dir.join("kmsg.log"), newest, event_log.clone()).await?;
        let transcript = Output::create(&dir.join("agent.log")).await?;
        let agent = Agent::connect(streams.agent, event_log.clone(), transcript);
        let transcript = dir.join("qmp.log");
        let connect = async {
            let qmp = Qmp::connect(streams.qmp, event_log.clone(), &transcript).await?;
            if begins == LaunchMode::Restored {
                ignore_shared_memory(&qmp).await?;
            }
            Ok::<_, QmpError>(qmp)
        };
        let qmp = tokio::select! {
            biased;
            ended = machine.ended() => Err(Error::infrastructure(format!("{ended} before it was ready"))),
            qmp = tokio::time::timeout(limits().start, connect) => match qmp {
                Ok(Ok(qmp)) => Ok(qmp),
                // The usual cause is that QEMU ended, and its exit status is the better message.
                Ok(Err(error @ QmpError::Gone(_))) => {
                    let ended = tokio::time::timeout(limits().parting, machine.ended()).await;
                    let what = ended.map_or_else(|_| error.to_string(), |ended| ended.to_string());
                    Err(Error::infrastructure(format!("{what} before it was ready")))
                }
                Ok(Err(error)) => Err(Error::infrastructure(error)),
                Err(_) => Err(Error::infrastructure(format!(
                    "QEMU's monitor did not answer within {} s",
                    limits().start.as_secs_f64()
                ))),
            },
        };
        let qmp = qmp.map_err(|error| {
            // Output that QEMU writes after this moment is not the cause.
            match last_words(dir) {
                words if words.is_empty() => error,
                words => error.detail(words),
            }
        })?;
        let gdb = Mutex::new(streams.gdb);
        Ok(Self {
            arch: context.scenario.machine.kind.arch(),
            qmp,
            agent,
            kmsg,
            serial,
            machine,
            gdb,
            probe,
            stays: false,
            dir: dir.to_owned(),
            event_log: event_log.clone(),
        })
    }

    /// Waits until the agent of a booting guest is ready.
    pub(super) async fn boot(&self, mut heard: crate::event_log::Subscription) -> Result<Hello, Cut> {
        let ready = heard.until(|what| match what {
            Event::Agent { event: AgentEvent::Ready(hello), .. } => Some(hello.clone()),
            _ => None,
        });
        tokio::select! {
            hello = ready => {
                self.event_log.record(Event::Stage(Stage::Ready));
                hello.map_err(|error| Cut::Broken(error.to_string()))
            }
            cut = self.cut() => Err(cut),
            () = self.serial.silent_for(limits().silence) => {
                Err(Cut::Hung(format!("no console output for {} s at boot", limits().silence.as_secs_f64())))
            }
            () = tokio::time::sleep(limits().boot) => {
                Err(Cut::Hung(format!("not ready {} s after the start of the boot", limits().boot.as_secs_f64())))
            }
        }
    }

    /// Saves the state of a guest that was started as a template. The guest does not run
    /// afterwards.
    pub(super) async fn save(&self) -> Result<(), Cut> {
        let save = async {
            self.stop().await?;
            ignore_shared_memory(&self.qmp).await?;
            let uri = format!("file:{}", Inherited::State.path());
            self.qmp.execute(Migrate { uri }).await
        };
        self.migrated(save).await
    }

    /// From now on the guest stays, stopped, when it shuts down or resets itself, as it does after a
    /// panic. QEMU acts on `-no-reboot` and on this before it touches the memory (system/runstate.c,
    /// `main_loop_should_exit()`).
    pub(super) async fn stay(&mut self) -> Result<()> {
        let pause = SetShutdownAction { shutdown: "pause" };
        self.qmp.execute(pause).await.map_err(Error::infrastructure)?;
        self.stays = true;
        Ok(())
    }

    /// Waits until a guest that stays has ended by itself. Never returns for another one, whose QEMU
    /// exits.
    async fn stayed(&self) {
        if self.stays {
            self.event_log.shut_down().await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    /// Stops the guest's CPUs.
    pub(super) async fn stop(&self) -> Result<(), QmpError> {
        self.qmp.execute(StopVcpus {}).await.map(drop)
    }

    /// Reads a stopped guest's physical memory.
    pub(super) async fn memory(&self, address: u64, bytes: u64) -> Result<Vec<u8>, String> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let save = Pmemsave { filename: Inherited::Probe.path(), size: bytes, val: address };
        self.qmp.execute(save).await.map_err(|error| error.to_string())?;
        let length = usize::try_from(bytes).map_err(|error| error.to_string())?;
        self.probe.read(length).map_err(|error| error.to_string())
    }

    /// Loads the checkpoint that this guest was started from, and resumes the guest.
    pub(super) async fn restore(&self) -> Result<(), Cut> {
        let uri = format!("file:{}", Inherited::State.path());
        let load = self.qmp.execute(MigrateIncoming { uri });
        self.migrated(load).await?;
        let go_on = async {
            self.qmp.execute(ContinueVcpus {}).await.map_err(|error| Cut::Broken(error.to_string()))
        };
        self.unless_cut(go_on).await?;
        self.event_log.record(Event::Stage(Stage::Ready));
        Ok(())
    }

    /// Attaches to the gdbstub, which is possible once. This stops the running guest.
    pub(super) async fn gdb(&self) -> Result<Gdb, GdbError> {
        let stream = self.gdb.lock().unwrap_or_else(PoisonError::into_inner).take();
        let stream = stream.ok_or_else(|| GdbError::Gone("QEMU was started without one".into()))?;
        let unknown = || GdbError::Odd(format!("the registers of {} are not known", self.arch.name));
        Gdb::attach(stream, self.arch.registers.ok_or_else(unknown)?).await
    }

    /// Reseeds the guest's random numbers, so that they differ from those of every other guest of
    /// its checkpoint. Does not wait for the answer.
    pub(super) fn reseed(&self, seed: &str) {
        self.agent.tell(Request::Reseed { seed: seed.to_owned() });
    }

    /// Starts a migration by `begin`, and waits until it is done.
    async fn migrated<T>(&self, begin: impl Future<Output = Result<T, QmpError>>) -> Result<(), Cut> {
        let mut heard = self.event_log.listen();
        let broken = |what: String| Cut::Broken(format!("the checkpoint: {what}"));
        let done = async {
            // A monitor that does not answer has a limit of its own.
            begin.await.map_err(|error| broken(error.to_string()))?;
            let status = heard.until(|what| match what {
                Event::Vmm(VmmEvent::Migration { status }) => {
                    Some(status).filter(|status| ["completed", "failed"].contains(&status.as_str())).cloned()
                }
                _ => None,
            });
            match tokio::time::timeout(limits().migration, status).await {
                Ok(Ok(status)) if status == "completed" => Ok(()),
                Ok(Ok(status)) => Err(broken(format!("QEMU's migration {status}"))),
                Ok(Err(error)) => Err(broken(error.to_string())),
                Err(_) => Err(broken(format!("not done within {} s", limits().migration.as_secs_f64()))),
            }
        };
        self.unless_cut(done).await
    }

    /// Waits until QEMU is gone. Safe to cancel.
    pub(super) async fn gone(&self) {
        self.machine.ended().await;
    }

    /// Waits for an event that ends a trial early. An event that has already happened counts. Safe
    /// to cancel.
    pub(super) async fn cut(&self) -> Cut {
        let severed = async {
            let why = tokio::select! {
                why = self.qmp.gone() => format!("QEMU's monitor is gone: {why}"),
                () = self.agent.gone() => "QEMU closed the agent's channel".to_owned(),
            };
            // The usual cause is that QEMU ended, and its exit status is the better message.
            let ended = tokio::time::timeout(limits().parting, self.machine.ended()).await;
            ended.map_or(Cut::Broken(why), Cut::Ended)
        };
        tokio::select! {
            biased;
            ending = self.event_log.ending() => ending.into(),
            ended = self.machine.ended() => Cut::Ended(ended),
            // Another QEMU would have exited now.
            () = self.stayed() => Cut::Ended(Ended { code: Some(0), signal: None, core: None }),
            cut = severed => cut,
        }
    }

    /// Does `work`, unless the trial is cut. If the work fails because a connection is gone or
    /// because it missed an event, its error does not have the cause, and the cut is returned in
    /// its place.
    pub(super) async fn unless_cut<T>(&self, work: impl Future<Output = Result<T, Cut>>) -> Result<T, Cut> {
        let done = tokio::select! {
            biased;
            cut = self.cut() => Err(cut),
            done = work => done,
        };
        match done {
            Err(Cut::Hung(_) | Cut::Broken(_)) if self.is_cut() => Err(self.cut().await),
            done => done,
        }
    }

    /// Whether [`Vm::cut`] returns at once or soon.
    fn is_cut(&self) -> bool {
        self.event_log.has_ending() || self.qmp.is_gone() || self.agent.is_gone()
    }

    /// Requests all kernel records, and waits for them. Returns false if the agent or the stream
    /// does not answer within `limit`.
    pub(super) async fn drain(&self, limit: Duration) -> bool {
        match tokio::time::timeout(limit, self.agent.drain()).await {
            Ok(Ok(Some(newest))) => self.kmsg.reached(newest, limit).await,
            Ok(Ok(None)) => true,
            _ => false,
        }
    }

    /// The part of the guest's memory that the host has swapped out, in KiB. `None` if it is not
    /// known.
    pub(super) fn swapped_kib(&self) -> Option<u64> {
        self.machine.swapped_kib()
    }

    /// Ends the files of the current trial: what the guest sends from now on belongs to its next
    /// trial. Returns false, and does nothing, if a kernel record has arrived only in part.
    pub(super) async fn pause(&self) -> Result<bool> {
        if !self.kmsg.pause().await? {
            return Ok(false);
        }
        for output in [self.serial.output(), self.agent.transcript(), self.qmp.transcript()] {
            output.pause().await?;
        }
        Ok(true)
    }

    /// Begins the files of the guest's next trial in its folder `dir`.
    pub(super) async fn resume(&mut self, dir: &Path) -> Result<()> {
        self.event_log.next_trial(&dir.join("events.jsonl"))?;
        // QEMU goes on writing to its standard error.
        for name in ["qemu.cmd", "qemu.stderr"] {
            fs_err::hard_link(self.dir.join(name), dir.join(name))?;
        }
        dir.clone_into(&mut self.dir);
        self.kmsg.resume(&dir.join("kmsg.log")).await?;
        self.serial.output().resume(&dir.join("serial.log")).await?;
        self.agent.transcript().resume(&dir.join("agent.log")).await?;
        Ok(self.qmp.transcript().resume(&dir.join("qmp.log")).await?)
    }

    /// Ends QEMU, and waits until all streams are in their files. Returns how QEMU ended, if it
    /// ended by itself.
    pub(super) async fn shut_down(self, cut: Option<&Cut>) -> Result<Option<Ended>> {
        let by_itself = match cut {
            // `panic=-1` reboots, and `-no-reboot` turns the reboot into an exit. A kernel that
            // stops while it prints the panic gets no more time than this.
            Some(Cut::Panicked) if !self.stays => {
                tokio::time::timeout(limits().last_words, self.machine.ended()).await.ok()
            }
            Some(Cut::Ended(ended)) => Some(ended.clone()),
            _ => None,
        };
        // All queries are done, and an orderly exit of QEMU would only take longer.
        self.machine.kill().await;
        self.serial.finish().await?;
        self.kmsg.finish().await?;
        Ok(by_itself)
    }
}

/// The end of QEMU's standard error, which is in the trial's folder `dir`.
pub(super) fn last_words(dir: &Path) -> String {
    let said = fs_err::read(dir.join("qemu.stderr")).unwrap_or_default();
    let end = said.trim_ascii_end();
    String::from_utf8_lossy(&end[end.len().saturating_sub(WORDS)..]).into_owned()
}

/// Leaves memory in a shared file out of the state, both when it is saved and when it is loaded,
/// and makes QEMU send an event at the end of a migration (qapi/migration.json: `x-ignore-shared`,
/// `events`).
async fn ignore_shared_memory(qmp: &Qmp) -> Result<(), QmpError> {
    let capabilities =
        ["x-ignore-shared", "events"].map(|capability| MigrationCapability { capability, state: true });
    qmp.execute(MigrateSetCapabilities { capabilities: capabilities.into() }).await.map(drop)
}

/// Writes QEMU's command line as a script. It is for reading, and it can be run by a program that
/// provides the inherited files and sockets.
fn write_command(dir: &Path, program: &Path, arguments: &[String]) -> Result<()> {
    Ok(fs_err::write(dir.join("qemu.cmd"), shell_words(program, arguments) + "\n")?)
}

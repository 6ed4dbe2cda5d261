//! A booted guest: QEMU, its monitor, and the guest's three voices.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hotplug_protocol::{Event, Hello, Request};
use tokio_util::sync::CancellationToken;

use super::Setting;
use crate::guest::{Agent, Kmsg, Serial};
use crate::journal::{Happening, HostTime, Journal, Stage};
use crate::qemu::{Channels, Ended, Machine, command_line};
use crate::qmp::Qmp;
use crate::{Error, Result};

/// A guest that prints nothing for this long while it boots hangs. Under TCG with both cores busy the longest pause
/// seen is 4 s.
const SILENCE: Duration = Duration::from_secs(45);

/// A guest that is not ready after this long hangs too, whatever it prints: a stalled kernel says so every 26 s.
const BOOT: Duration = Duration::from_secs(180);

/// How long a panicking kernel may take to print and reboot, and QEMU to obey `quit`.
const LAST_WORDS: Duration = Duration::from_secs(20);

/// A booted guest.
#[derive(Debug)]
pub(super) struct Vm {
    pub(super) qmp: Qmp,
    pub(super) agent: Agent,
    pub(super) kmsg: Kmsg,
    serial: Serial,
    pub(super) machine: Machine,
    pub(super) journal: Arc<Journal>,
    pub(super) hello: Option<Hello>,
    pub(super) booted: Option<HostTime>,
}

/// Why a stage ended before it was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cut {
    /// QEMU ended by itself.
    Ended(Ended),
    /// The console carried a panic.
    Panicked,
    /// The guest is silent or does not answer.
    Hung(String),
    /// The agent is broken: what it says cannot be believed.
    Broken(String),
}

impl Vm {
    /// Starts QEMU on `kernel` in the trial's folder `dir` and boots until the agent is ready.
    ///
    /// The machine is returned even when the boot was cut short, for its evidence; an error is infrastructure's.
    pub(super) async fn boot(
        setting: &Setting,
        kernel: &Path,
        name: &str,
        dir: &Path,
        journal: &Arc<Journal>,
    ) -> Result<(Self, Option<Cut>)> {
        let channels = Channels::below(&setting.private.folder(name)?);
        let boot = setting.boot(kernel);
        let arguments = command_line(&setting.scenario.machine, &setting.scenario.guest, &boot, &channels);
        write_command(dir, &setting.qemu, &arguments)?;
        let mut heard = journal.listen();
        journal.record(Happening::Stage(Stage::Started));
        let stderr = dir.join("qemu.stderr");
        let (machine, streams) =
            Machine::start(&setting.qemu, &arguments, &channels, &setting.private, &stderr).await?;
        let serial = Serial::read(streams.serial, &dir.join("serial.log"), journal.clone());
        let kmsg = Kmsg::read(streams.kmsg, &dir.join("kmsg.log"), journal.clone());
        let agent = Agent::connect(streams.agent, journal.clone());
        let transcript = dir.join("qmp.log");
        let qmp = tokio::select! {
            qmp = Qmp::connect(streams.qmp, journal.clone(), &transcript) => {
                qmp.map_err(Error::infrastructure)?
            }
            ended = machine.ended() => return Err(Error::infrastructure(ended)),
        };
        let mut vm =
            Self { qmp, agent, kmsg, serial, machine, journal: journal.clone(), hello: None, booted: None };
        let ready = async {
            loop {
                if let Happening::Agent { event: Event::Ready(hello), .. } = &heard.next().await?.what {
                    return Ok::<_, Error>(hello.clone());
                }
            }
        };
        let cut = tokio::select! {
            hello = ready => {
                vm.hello = Some(hello?);
                None
            }
            cut = vm.cut() => Some(cut),
            () = vm.serial.silent_for(SILENCE) => {
                Some(Cut::Hung(format!("silent for {} s at boot", SILENCE.as_secs())))
            }
            () = tokio::time::sleep(BOOT) => {
                Some(Cut::Hung(format!("not ready {} s after the start of its boot", BOOT.as_secs())))
            }
        };
        if cut.is_some() {
            return Ok((vm, cut));
        }
        vm.booted = Some(journal.now());
        journal.record(Happening::Stage(Stage::Ready));
        Ok((vm, None))
    }

    /// Waits for whatever ends a trial early. Safe to cancel.
    pub(super) async fn cut(&self) -> Cut {
        let mut heard = self.journal.listen();
        let said = heard.until(|what| match what {
            Happening::Panic => Some(Cut::Panicked),
            Happening::Agent { event: Event::Broken { what }, .. } => Some(Cut::Broken(what.clone())),
            _ => None,
        });
        tokio::select! {
            biased;
            cut = said => cut.unwrap_or_else(|error| Cut::Broken(error.to_string())),
            ended = self.machine.ended() => Cut::Ended(ended),
        }
    }

    /// Has every kernel record fetched; false where the agent or the stream does not answer in time.
    pub(super) async fn drain(&self, limit: Duration) -> bool {
        match tokio::time::timeout(limit, self.agent.drain()).await {
            Ok(Ok(Some(newest))) => self.kmsg.reached(newest, limit).await,
            Ok(Ok(None)) => true,
            _ => false,
        }
    }

    /// Asks a hanging guest what it hangs on: blocked tasks and held locks into its own log, registers into QEMU's.
    pub(super) async fn diagnose(&self) {
        let limit = Duration::from_secs(10);
        // Documentation/admin-guide/sysrq.rst: w, blocked tasks; d, held locks; l, backtraces of active CPUs.
        for key in ["w", "d", "l"] {
            let request = Request::Write { path: "/proc/sysrq-trigger".into(), data: key.into() };
            if !matches!(tokio::time::timeout(limit, self.agent.ask(request)).await, Ok(Ok(_))) {
                // No agent: an NMI makes the kernel print where its CPUs are (arch/x86/kernel/nmi.c).
                let _ = tokio::time::timeout(limit, self.qmp.execute(qapi::qmp::inject_nmi {})).await;
                let _ = tokio::time::timeout(limit, self.serial.silent_for(Duration::from_secs(1))).await;
                return;
            }
        }
        self.drain(limit).await;
    }

    /// Ends QEMU: `quit` where it is asked nicely, a kill after that; then waits for all streams to reach their files.
    pub(super) async fn shut_down(self, cut: Option<&Cut>, cancel: &CancellationToken) -> Result<Ended> {
        if cut == Some(&Cut::Panicked) {
            // panic=-1 reboots, -no-reboot exits. A kernel that dies while it prints gets no more than this.
            let _ = tokio::time::timeout(LAST_WORDS, self.machine.ended()).await;
        } else if !cancel.is_cancelled() {
            let quit = async {
                // The answer may never come: QEMU is free to exit first.
                let _ = self.qmp.execute(qapi::qmp::quit {}).await;
                self.machine.ended().await
            };
            let _ = tokio::time::timeout(LAST_WORDS, quit).await;
        }
        let ended = self.machine.kill().await;
        self.serial.finish().await?;
        self.kmsg.finish().await?;
        Ok(ended)
    }
}

/// Keeps QEMU's command line as a script that can be read, and run by whoever listens on the sockets.
fn write_command(dir: &Path, program: &Path, arguments: &[String]) -> Result<()> {
    let quote = |word: &str| {
        let plain =
            word.chars().all(|c| c.is_ascii_alphanumeric() || "-_=,./:".contains(c)) && !word.is_empty();
        if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    let mut text = quote(&program.display().to_string());
    for word in arguments {
        text.push_str(if word.starts_with('-') { " \\\n  " } else { " " });
        text.push_str(&quote(word));
    }
    text.push('\n');
    Ok(fs_err::write(dir.join("qemu.cmd"), text)?)
}

//! Selects an accelerator by booting a guest with it.
//!
//! On some machines, `/dev/kvm` exists and opens and QEMU starts with `-accel kvm`, but no guest
//! makes progress. These are nested hosts whose KVM interprets the guest instruction by
//! instruction. On one of them (no vmx or svm in `/proc/cpuinfo`, QEMU 10.0.2), these effects were
//! measured:
//!
//! - With `-cpu max`, QEMU dies at once ("failed to set MSR 0x10a").
//! - With a plain CPU model, `SeaBIOS` takes 3 to 8 s instead of 0.2 s, and then *does* start a
//!   boot sector. The boot sector prints, enters long mode and prints again.
//! - A kernel's own 16-bit code prints "early console in setup code". The kernel then prints
//!   nothing for 15 minutes: it decompresses itself in long mode, at half a million instructions
//!   per second.
//!
//! So output from a guest is not sufficient, and the probe also requires a short computation. Its
//! loop ran 100,000,000 rounds per second under TCG and 65,000 under that KVM. Any reasonable time
//! limit separates the two.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::Qemu;
use super::known::{Answers, Known, Kvm};
use super::payload::Stage;
use super::probe::{self, Boot, ProbeOutcome};
use crate::arch::Architecture;
use crate::kernel::Cache;
use crate::limits::limits;
use crate::{Error, Result};

/// The time limit for a guest under KVM, as a multiple of the time that the guest under TCG took.
const PATIENCE: u32 = 10;

/// The device of KVM.
pub const KVM_DEVICE: &str = "/dev/kvm";

/// The component that executes a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// The processor, through `/dev/kvm`.
    Kvm,
    /// QEMU's own translator.
    Tcg,
}

impl Accelerator {
    /// The argument of QEMU's `-accel`.
    pub fn argument(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

/// The value of `--accel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// KVM if a guest runs under it, or else TCG.
    #[default]
    Auto,
    /// KVM, or an error if no guest runs under it.
    Kvm,
    /// TCG, even if KVM works. It is slower, but the same on every machine.
    Tcg,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            _ => Err("not one of auto, kvm, tcg".to_owned()),
        }
    }
}

impl Choice {
    /// Combines the choice with the accelerator that a scenario demands. Fails with a user error if
    /// the two contradict each other.
    pub fn and(self, demanded: Option<Accelerator>) -> Result<Self> {
        let asked = match self {
            Self::Auto => None,
            Self::Kvm => Some(Accelerator::Kvm),
            Self::Tcg => Some(Accelerator::Tcg),
        };
        match (asked, demanded) {
            (Some(asked), Some(demanded)) if asked != demanded => Err(Error::user(format!(
                "--accel {} contradicts the scenario's accelerator = \"{}\"",
                asked.argument(),
                demanded.argument()
            ))
            .help("remove one of the two")),
            (None, Some(demanded)) => Ok(demanded.into()),
            _ => Ok(self),
        }
    }
}

impl From<Accelerator> for Choice {
    fn from(accelerator: Accelerator) -> Self {
        match accelerator {
            Accelerator::Kvm => Self::Kvm,
            Accelerator::Tcg => Self::Tcg,
        }
    }
}

/// The accelerator of a run, and the reason for its selection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Acceleration {
    /// The accelerator with which guests are started.
    pub accelerator: Accelerator,
    /// A fragment such as "/dev/kvm opens, but no guest answers within 5 s".
    pub reason: String,
}

/// "TCG (/dev/kvm opens, but no guest answers within 5 s)".
impl fmt::Display for Acceleration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.accelerator, self.reason)
    }
}

/// A command's request for an accelerator.
#[derive(Debug, Clone, Copy)]
pub struct AcceleratorRequest {
    /// The requested accelerator.
    pub choice: Choice,
    /// Whether the probe must run again even if the result of an earlier probe is stored.
    pub anew: bool,
}

impl AcceleratorRequest {
    /// The request for the option `--accel`. If the option was given, the probe must run again.
    pub fn by(option: Option<Choice>) -> Self {
        Self { choice: option.unwrap_or_default(), anew: option.is_some() }
    }

    /// Combines the request with the accelerator that a scenario demands. Fails with a user error
    /// if the two contradict each other.
    pub fn and(self, demanded: Option<Accelerator>) -> Result<Self> {
        Ok(Self { choice: self.choice.and(demanded)?, ..self })
    }
}

/// The stored result of an earlier probe is sufficient.
impl From<Accelerator> for AcceleratorRequest {
    fn from(accelerator: Accelerator) -> Self {
        Self { choice: accelerator.into(), anew: false }
    }
}

/// Determines the accelerator for the request `asked` on this machine. It uses the result of an
/// earlier probe since the machine booted, or else boots guests. With `kernel`, that kernel must
/// also print its first line under KVM. This is the most reliable test if a kernel is available.
///
/// The probe takes half a second under TCG. If KVM is silent, it takes up to the limit: 5 s, or ten
/// times the time of TCG. It leaves no processes behind, and no files except its result, which is
/// stored in `cache`.
///
/// Fails with a user error if KVM was requested and no guest runs under it, and with an
/// infrastructure error if no guest runs under TCG either.
pub async fn find_accelerator(
    qemu: &Qemu,
    arch: Architecture,
    asked: AcceleratorRequest,
    kernel: Option<&Path>,
    cache: &Cache,
    cancel: &CancellationToken,
) -> Result<Acceleration> {
    let AcceleratorRequest { choice, anew } = asked;
    // The probe's guest is one of x86-64.
    if arch != Architecture::X86 {
        if choice == Choice::Kvm {
            return Err(Error::user(format!("KVM is used for guests of x86_64, not of {arch}"))
                .help("use --accel tcg or --accel auto"));
        }
        let reason = format!("KVM is not used for guests of {arch}");
        return Ok(Acceleration { accelerator: Accelerator::Tcg, reason });
    }
    let known = Known::of(qemu, Path::new(KVM_DEVICE), cache);
    let kept = known.as_ref().filter(|_| !anew).and_then(Known::answers);
    if let Some(answer) = kept.as_ref().and_then(|answers| answers.settle(choice, kernel.is_some())) {
        return Ok(answer);
    }
    let mut answers = Answers::default();
    let settled = probe(qemu, choice, kernel, &mut answers, cancel).await?;
    // A probe of TCG alone has no result for KVM, so the stored one is kept.
    answers.kvm = answers.kvm.or(kept.and_then(|kept| kept.kvm));
    if let Some(Err(error)) = known.map(|known| known.keep(answers)) {
        tracing::warn!(%error, "cannot store the accelerator probe's result; the next command probes again");
    }
    Ok(settled)
}

/// Boots guests to fill `answers`, and selects an accelerator.
async fn probe(
    qemu: &Qemu,
    choice: Choice,
    kernel: Option<&Path>,
    answers: &mut Answers,
    cancel: &CancellationToken,
) -> Result<Acceleration> {
    let first = probe::boot(qemu, Accelerator::Tcg, Boot::Sector, limits().first_guest, cancel).await?;
    answers.tcg = matches!(first, ProbeOutcome::Answered { .. });
    if choice != Choice::Tcg {
        let kvm = try_kvm(qemu, &first, kernel, limit_after(&first), cancel).await?;
        answers.kvm = Some(match kvm {
            Ok(after) => Kvm::Answered { after, kernel: kernel.is_some() },
            Err(why) => Kvm::Useless(why),
        });
    }
    if let Some(settled) = answers.settle(choice, kernel.is_some()) {
        return Ok(settled);
    }
    match &answers.kvm {
        Some(Kvm::Useless(why)) if choice == Choice::Kvm => {
            Err(Error::user(format!("KVM was requested, but no guest runs under it here: {why}"))
                .help("use --accel tcg or --accel auto"))
        }
        _ => Err(no_answer(&first)),
    }
}

impl Answers {
    /// The accelerator for `choice` according to these answers. `None` if they do not determine it,
    /// or if they rule out the requested one. With `kernel`, a boot sector that ran under KVM is
    /// not sufficient.
    fn settle(&self, choice: Choice, kernel: bool) -> Option<Acceleration> {
        let tcg = |reason: &str| {
            let reason = reason.to_owned();
            self.tcg.then_some(Acceleration { accelerator: Accelerator::Tcg, reason })
        };
        match (choice, &self.kvm) {
            (Choice::Tcg, _) => tcg("as asked"),
            (Choice::Auto | Choice::Kvm, Some(Kvm::Answered { after, kernel: by_kernel }))
                if *by_kernel || !kernel =>
            {
                let reason = format!("a guest answered in {:.1} s", after.as_secs_f64());
                Some(Acceleration { accelerator: Accelerator::Kvm, reason })
            }
            (Choice::Auto, Some(Kvm::Useless(why))) => tcg(why),
            _ => None,
        }
    }
}

fn limit_after(first: &ProbeOutcome) -> Duration {
    match first {
        ProbeOutcome::Answered { after, .. } => limits().least_guest.max(*after * PATIENCE),
        ProbeOutcome::Silent { .. } | ProbeOutcome::Ended { .. } => limits().least_guest,
    }
}

/// Tests KVM. The inner error is the reason why KVM is not usable.
async fn try_kvm(
    qemu: &Qemu,
    tcg: &ProbeOutcome,
    kernel: Option<&Path>,
    limit: Duration,
    cancel: &CancellationToken,
) -> Result<Result<Duration, String>> {
    if let Err(why) = device_opens(Path::new(KVM_DEVICE)) {
        return Ok(Err(why));
    }
    let outcome = probe::boot(qemu, Accelerator::Kvm, Boot::Sector, limit, cancel).await?;
    let first = match judge_kvm(&outcome, tcg) {
        Ok(after) => after,
        Err(why) => return Ok(Err(why)),
    };
    let Some(kernel) = kernel else { return Ok(Ok(first)) };
    let outcome = probe::boot(qemu, Accelerator::Kvm, Boot::Kernel(kernel), limit, cancel).await?;
    Ok(judge_kvm(&outcome, tcg))
}

/// Checks whether QEMU could open the device. Success does not mean that guests run. A failure
/// makes a test boot unnecessary.
pub(super) fn device_opens(device: &Path) -> Result<(), String> {
    match fs_err::OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.kind() {
            std::io::ErrorKind::NotFound => format!("no {}", device.display()),
            std::io::ErrorKind::PermissionDenied => {
                format!("{}: permission denied; sudo usermod -aG kvm $USER", device.display())
            }
            _ => format!("{error}"),
        }),
    }
}

/// Noise to tolerate in a comparison of two short durations.
const NOISE: Duration = Duration::from_millis(200);

fn judge_kvm(kvm: &ProbeOutcome, tcg: &ProbeOutcome) -> Result<Duration, String> {
    match kvm {
        ProbeOutcome::Answered { after, work } => match tcg {
            ProbeOutcome::Answered { work: tcg_work, .. } if *work > *tcg_work * 2 + NOISE => Err(format!(
                "{KVM_DEVICE} works, but {:.0} times slower than TCG",
                work.div_duration_f64(*tcg_work)
            )),
            _ => Ok(*after),
        },
        ProbeOutcome::Silent { reached: Some(Stage::LongMode), limit } => {
            Err(format!("{KVM_DEVICE} opens, but a guest crawls: no answer within {} s", limit.as_secs()))
        }
        ProbeOutcome::Silent { limit, .. } => {
            Err(format!("{KVM_DEVICE} opens, but no guest answers within {} s", limit.as_secs()))
        }
        ProbeOutcome::Ended { how } => {
            Err(format!("{KVM_DEVICE} opens, but QEMU ends: {}", how.lines().next().unwrap_or_default()))
        }
    }
}

/// The error for a machine on which no guest runs, even under TCG.
fn no_answer(outcome: &ProbeOutcome) -> Error {
    match outcome {
        ProbeOutcome::Ended { how } => {
            Error::infrastructure("QEMU ends instead of running a guest under TCG").detail(how)
        }
        ProbeOutcome::Silent { reached, limit } => {
            let reached = reached.map_or("nothing, not even real mode".to_owned(), |stage| stage.to_string());
            Error::infrastructure(format!("no guest answers under TCG within {} s", limit.as_secs()))
                .detail(format!("a boot sector reached {reached}"))
                .help(
                    "check that the machine is not overloaded; QEMU's firmware is in Debian's package seabios",
                )
        }
        ProbeOutcome::Answered { .. } => {
            Error::infrastructure("a guest answered under TCG, but no accelerator was selected")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(amount: u64) -> Duration {
        Duration::from_secs(amount)
    }

    const TCG: ProbeOutcome = ProbeOutcome::Answered { after: seconds(1), work: Duration::from_millis(200) };

    #[test]
    fn judges_kvm_by_what_its_guest_did() {
        let why = |outcome| judge_kvm(&outcome, &TCG).unwrap_err();
        insta::assert_snapshot!(why(ProbeOutcome::Silent { reached: None, limit: seconds(5) }), @"/dev/kvm opens, but no guest answers within 5 s");
        insta::assert_snapshot!(why(ProbeOutcome::Silent { reached: Some(Stage::LongMode), limit: seconds(5) }), @"/dev/kvm opens, but a guest crawls: no answer within 5 s");
        insta::assert_snapshot!(why(ProbeOutcome::Answered { after: seconds(4), work: seconds(3) }), @"/dev/kvm works, but 15 times slower than TCG");
        insta::assert_snapshot!(why(ProbeOutcome::Ended { how: "failed to set MSR 0x10a\nAssertion".into() }), @"/dev/kvm opens, but QEMU ends: failed to set MSR 0x10a");
        let quick = ProbeOutcome::Answered { after: seconds(1), work: Duration::from_millis(30) };
        assert_eq!(judge_kvm(&quick, &TCG), Ok(seconds(1)));
    }

    #[test]
    fn limits_follow_the_machine() {
        assert_eq!(limit_after(&ProbeOutcome::Answered { after: seconds(2), work: seconds(1) }), seconds(20));
        assert_eq!(
            limit_after(&ProbeOutcome::Answered { after: Duration::from_millis(300), work: seconds(0) }),
            seconds(5)
        );
        assert_eq!(limit_after(&ProbeOutcome::Ended { how: String::new() }), seconds(5));
    }

    #[test]
    fn what_earlier_probes_found_settles_what_they_can() {
        let found = |tcg, kvm, choice, kernel| {
            let settled = Answers { tcg, kvm }.settle(choice, kernel);
            settled.map(|settled| settled.to_string())
        };
        let sector = || Some(Kvm::Answered { after: seconds(1), kernel: false });
        let kernel = || Some(Kvm::Answered { after: seconds(2), kernel: true });
        let useless = || Some(Kvm::Useless("no /dev/kvm".into()));
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(found(true, None, Choice::Tcg, true), text("TCG (as asked)"));
        assert_eq!(found(true, None, Choice::Auto, true), None);
        assert_eq!(found(true, useless(), Choice::Auto, true), text("TCG (no /dev/kvm)"));
        assert_eq!(found(true, useless(), Choice::Kvm, true), None);
        assert_eq!(found(false, useless(), Choice::Auto, false), None);
        // No kernel has answered under KVM yet.
        assert_eq!(found(true, sector(), Choice::Auto, true), None);
        assert_eq!(found(true, sector(), Choice::Auto, false), text("KVM (a guest answered in 1.0 s)"));
        assert_eq!(found(true, kernel(), Choice::Kvm, true), text("KVM (a guest answered in 2.0 s)"));
        assert_eq!(found(false, kernel(), Choice::Auto, true), text("KVM (a guest answered in 2.0 s)"));
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        assert_eq!(device_opens(Path::new("/nonexistent")).unwrap_err(), "no /nonexistent");
    }

    #[test]
    fn a_scenario_that_demands_an_accelerator_gets_no_other() {
        assert_eq!(Choice::Auto.and(None).unwrap(), Choice::Auto);
        assert_eq!(Choice::Auto.and(Some(Accelerator::Tcg)).unwrap(), Choice::Tcg);
        assert_eq!(Choice::Kvm.and(Some(Accelerator::Kvm)).unwrap(), Choice::Kvm);
        let error = Choice::Kvm.and(Some(Accelerator::Tcg)).unwrap_err().to_string();
        let said =
            "--accel kvm contradicts the scenario's accelerator = \"tcg\"\n  help: remove one of the two";
        assert_eq!(error, said);
    }
}

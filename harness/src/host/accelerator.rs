//! Choosing an accelerator by booting something with it.
//!
//! `/dev/kvm` can exist and open, and QEMU start with `-accel kvm`, on machines where no guest gets anywhere: nested
//! hosts whose KVM interprets the guest instruction by instruction. Measured on one (no vmx or svm in `/proc/cpuinfo`,
//! QEMU 10.0.2): with `-cpu max` QEMU dies at once ("failed to set MSR 0x10a"). With a plain CPU model `SeaBIOS` takes
//! 3 to 8 s instead of 0.2 s and then *does* start a boot sector; the boot sector prints, enters long mode and prints
//! again. A kernel's own 16-bit code prints "early console in setup code" there, and in 15 minutes nothing more: it is
//! in long mode, unpacking itself, at half a million instructions a second.
//!
//! So hearing from a guest is not enough; the probe wants a moment of work done too. Its loop ran 100,000,000 rounds a
//! second under TCG and 65,000 under that KVM: no time limit comes near the line between them.

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
use crate::kernel::Cache;
use crate::limits::limits;
use crate::{Error, Result};

/// How much slower than TCG a guest may answer before it is given up.
const PATIENCE: u32 = 10;

/// The device KVM is reached by.
const DEVICE: &str = "/dev/kvm";

/// What runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// The processor, through `/dev/kvm`.
    Kvm,
    /// QEMU's own translator.
    Tcg,
}

impl Accelerator {
    /// As QEMU's `-accel` takes it.
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

/// What the user asked for with `--accel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// KVM where a guest runs under it, or else TCG.
    #[default]
    Auto,
    /// KVM or an error.
    Kvm,
    /// TCG, also where KVM works: slower, and the same everywhere.
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
    /// With what a scenario demands. An error where the two differ.
    pub fn and(self, demanded: Option<Accelerator>) -> Result<Self> {
        let asked = match self {
            Self::Auto => None,
            Self::Kvm => Some(Accelerator::Kvm),
            Self::Tcg => Some(Accelerator::Tcg),
        };
        match (asked, demanded) {
            (Some(asked), Some(demanded)) if asked != demanded => Err(Error::user(format!(
                "--accel {} against the scenario's accelerator = \"{}\"",
                asked.argument(),
                demanded.argument()
            ))
            .help("leave one of the two out")),
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

/// The accelerator of a run, and why it is this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Acceleration {
    /// What to start guests with.
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

/// What a command asks for.
#[derive(Debug, Clone, Copy)]
pub struct AcceleratorRequest {
    /// The accelerator.
    pub choice: Choice,
    /// An answer of an earlier probe is not enough.
    pub anew: bool,
}

impl AcceleratorRequest {
    /// By `--accel`, where it was given: then the question is put anew.
    pub fn by(option: Option<Choice>) -> Self {
        Self { choice: option.unwrap_or_default(), anew: option.is_some() }
    }

    /// With what a scenario demands. An error where the two differ.
    pub fn and(self, demanded: Option<Accelerator>) -> Result<Self> {
        Ok(Self { choice: self.choice.and(demanded)?, ..self })
    }
}

/// An answer of an earlier probe is enough.
impl From<Accelerator> for AcceleratorRequest {
    fn from(accelerator: Accelerator) -> Self {
        Self { choice: accelerator.into(), anew: false }
    }
}

/// The accelerator that `asked` comes to on this machine: what an earlier probe found since the machine booted, or else by
/// booting guests. With `kernel`, KVM must also bring that kernel to its first line: the surest test, once a kernel is
/// there.
///
/// The probe takes half a second under TCG, and up to the limit (5 s, or ten times what TCG took) where KVM is silent.
/// It leaves neither processes nor files but its answer, which is kept in `cache`.
///
/// The user's error: KVM was asked for and runs no guest. Infrastructure: not even TCG answers.
pub async fn find_accelerator(
    qemu: &Qemu,
    asked: AcceleratorRequest,
    kernel: Option<&Path>,
    cache: &Cache,
    cancel: &CancellationToken,
) -> Result<Acceleration> {
    let AcceleratorRequest { choice, anew } = asked;
    let known = Known::of(qemu, Path::new(DEVICE), cache);
    let kept = known.as_ref().filter(|_| !anew).and_then(Known::answers);
    if let Some(answer) = kept.as_ref().and_then(|answers| answers.settle(choice, kernel.is_some())) {
        return Ok(answer);
    }
    let mut answers = Answers::default();
    let settled = probe(qemu, choice, kernel, &mut answers, cancel).await?;
    // A probe of TCG alone says nothing of KVM, whose answer stands.
    answers.kvm = answers.kvm.or(kept.and_then(|kept| kept.kvm));
    if let Some(Err(error)) = known.map(|known| known.keep(answers)) {
        tracing::warn!(%error, "the accelerator is looked for again next time");
    }
    Ok(settled)
}

/// Boots guests.
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
            Err(Error::user(format!("KVM was asked for, and runs no guest here: {why}"))
                .help("--accel tcg, or --accel auto"))
        }
        _ => Err(no_answer(&first)),
    }
}

impl Answers {
    /// What `choice` comes to by these answers; none where they do not settle it, or settle it against what was asked for.
    /// With `kernel`, that a boot sector ran under KVM is not enough.
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

/// The inner error says why KVM is of no use.
async fn try_kvm(
    qemu: &Qemu,
    tcg: &ProbeOutcome,
    kernel: Option<&Path>,
    limit: Duration,
    cancel: &CancellationToken,
) -> Result<Result<Duration, String>> {
    if let Err(why) = device_opens(Path::new(DEVICE)) {
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

/// Whether QEMU could open it. Says nothing about guests; saves the boot where it is hopeless.
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

/// Noise that a comparison of two short spans must bear.
const NOISE: Duration = Duration::from_millis(200);

fn judge_kvm(kvm: &ProbeOutcome, tcg: &ProbeOutcome) -> Result<Duration, String> {
    match kvm {
        ProbeOutcome::Answered { after, work } => match tcg {
            ProbeOutcome::Answered { work: tcg_work, .. } if *work > *tcg_work * 2 + NOISE => Err(format!(
                "{DEVICE} works, but {:.0} times slower than TCG",
                work.div_duration_f64(*tcg_work)
            )),
            _ => Ok(*after),
        },
        ProbeOutcome::Silent { reached: Some(Stage::LongMode), limit } => {
            Err(format!("{DEVICE} opens, but a guest crawls: no answer within {} s", limit.as_secs()))
        }
        ProbeOutcome::Silent { limit, .. } => {
            Err(format!("{DEVICE} opens, but no guest answers within {} s", limit.as_secs()))
        }
        ProbeOutcome::Ended { how } => {
            Err(format!("{DEVICE} opens, but QEMU ends: {}", how.lines().next().unwrap_or_default()))
        }
    }
}

/// Why no guest runs, not even under TCG.
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
                    "see that the machine is not overloaded; QEMU's firmware is in Debian's package seabios",
                )
        }
        ProbeOutcome::Answered { .. } => {
            Error::infrastructure("a guest answered under TCG, and nothing came of it")
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
        // No kernel has been seen under KVM yet.
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
            "--accel kvm against the scenario's accelerator = \"tcg\"\n  help: leave one of the two out";
        assert_eq!(error, said);
    }
}

//! A trial: one restored checkpoint or one boot, one schedule of operations, one outcome.

mod accounting;
mod bench;
mod callbacks;
pub mod checkpoint;
mod classify;
mod completion;
mod context;
mod coverage;
mod cpus;
mod diagnosis;
mod driver;
mod emulator;
mod failure;
mod firmware;
mod hand_over;
mod holding;
mod housekeeping_cpu;
mod lanes;
mod locks;
mod never_ended;
mod operation;
mod outcome;
mod phases;
mod pool;
mod refusals;
mod repro_script;
mod rest;
mod resume;
mod rounds;
mod run;
mod standing;
mod timing;
mod tracer;
mod vm;
mod vmcore;

pub use accounting::Mismatch;
pub use context::{
    Instruments, Original, PastTrial, ScenarioOfTrial, TrialContext, TrialPlan, TrialSetup, TrialStart,
};
pub use emulator::StaleBreakpoint;
pub(crate) use hand_over::{BUSYBOX, SHELL};
pub use hand_over::{HandOver, HandOverKind, Handed, Receiver};
pub use never_ended::{NeverEnded, ShortLimit};
pub use operation::OperationRecord;
pub use outcome::{Armed, LoadFailure, Seen, TrialOutcome, TrialRecord};
pub use pool::{Again, Happened, Repeated, Tell, TrialsRun, plan, plan_of, run_all};
pub use repro_script::OnDisk;
pub use resume::{PriorTrials, look_back};
pub use standing::Unrestored;
pub use timing::{TimingSource, Watched};
pub use vmcore::{Vmcore, VmcoreNote, VmcoreQuota, vmcores_of};

//! Decides whether a guest that has ended a trial can take another one. Nothing of the trial may be
//! left: what a later trial shows should be its own doing, or that of a mark that no account shows.

use std::time::{Duration, Instant};

use hotplug_protocol::{GuestTime, Hello, Rest, Snapshot};

use super::standing::StandingValues;
use super::vm::Vm;
use crate::limits::limits;

/// The most kernel threads beyond those after the first trial. The kernel creates and ends workers
/// of its own accord (`manage_workers()` in kernel/workqueue.c).
const MORE_THREADS: u32 = 16;

/// The most memory that may be missing after a later trial, compared with the first, in KiB. Caches
/// grow with the first trial.
const LESS_KIB: u64 = 16 << 10;

/// The most by which the clocks of guest and host may differ from one trial to the next: this time,
/// and a hundredth of the time between them.
const DRIFT: Duration = Duration::from_millis(250);

/// The facts about a guest that every trial of it begins with.
#[derive(Debug, Clone)]
pub(super) struct Beginning {
    /// The agent's description of itself and of the guest.
    pub(super) hello: Hello,
    /// The guest's memory and CPUs before its first trial.
    pub(super) baseline: Snapshot,
    /// The values of its kernel's state before its next trial, if they have been read.
    pub(super) standing: Option<StandingValues>,
    /// Whether lockdep is checking. `None` for a kernel without it.
    pub(super) armed: Option<bool>,
}

/// The state after earlier trials of a guest, which that after a later trial is compared with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Earlier {
    first: Rest,
    last: Clocks,
}

/// The state of a guest after a trial.
#[derive(Debug, Clone)]
pub(super) enum AtRest {
    /// Nothing of the trial is left.
    Yes(Earlier),
    /// Something is left, described by this text.
    No(String),
}

/// Compares the guest with its beginning, and with its state after `earlier` trials.
pub(super) async fn look(vm: &Vm, beginning: &Beginning, earlier: Option<Earlier>) -> AtRest {
    let questions = async { Ok((vm.agent.snapshot().await?, vm.agent.rest().await?)) };
    let answers: Result<_, crate::guest::AgentError> =
        match tokio::time::timeout(limits().questions, questions).await {
            Ok(answers) => answers,
            Err(_) => return AtRest::No("it does not answer".into()),
        };
    let (now, rest) = match answers {
        Ok(answers) => answers,
        Err(error) => return AtRest::No(error.to_string()),
    };
    let last = Clocks { host: Instant::now(), guest: rest.at };
    let left = changed(&beginning.baseline, &now)
        .or_else(|| more(&earlier?.first, &rest))
        .or_else(|| drifted(earlier?.last, last));
    let first = earlier.map_or(rest, |earlier| earlier.first);
    left.map_or(AtRest::Yes(Earlier { first, last }), AtRest::No)
}

/// The time on both clocks.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    host: Instant,
    guest: GuestTime,
}

/// What is not as it was, in words.
pub(super) fn changed(was: &Snapshot, is: &Snapshot) -> Option<String> {
    let Snapshot { mem_total_kib, zones, blocks, cpus_present, cpus_online, tainted } = is;
    if *mem_total_kib != was.mem_total_kib {
        return Some(format!("MemTotal is {mem_total_kib} KiB, was {}", was.mem_total_kib));
    }
    if let Some(zone) = zones.iter().find(|zone| !was.zones.contains(zone)) {
        return Some(format!("node {} zone {} has other pages", zone.node, zone.name));
    }
    let differs = [
        (zones.len() != was.zones.len(), "a zone is gone"),
        (*blocks != was.blocks, "other memory blocks are there or online"),
        (*cpus_present != was.cpus_present, "other CPUs are present"),
        (*cpus_online != was.cpus_online, "other CPUs are online"),
        (*tainted != was.tainted, "the kernel is tainted"),
    ];
    differs.into_iter().find_map(|(differs, words)| differs.then(|| words.to_owned()))
}

fn more(first: &Rest, rest: &Rest) -> Option<String> {
    if rest.processes != first.processes {
        return Some(format!("{} processes, were {}", rest.processes, first.processes));
    }
    if rest.kernel_threads > first.kernel_threads + MORE_THREADS {
        return Some(format!("{} kernel threads, were {}", rest.kernel_threads, first.kernel_threads));
    }
    if rest.available_kib + LESS_KIB < first.available_kib {
        return Some(format!("{} KiB are available, were {}", rest.available_kib, first.available_kib));
    }
    None
}

fn drifted(began: Clocks, ended: Clocks) -> Option<String> {
    let host = ended.host.saturating_duration_since(began.host);
    let guest = Duration::from_micros(ended.guest.0.saturating_sub(began.guest.0));
    let off = host.abs_diff(guest);
    (off > DRIFT + host / 100).then(|| {
        format!("its clock went {:.1} s in {:.1} s of the host's", guest.as_secs_f64(), host.as_secs_f64())
    })
}

#[cfg(test)]
mod tests {
    use hotplug_protocol::{Block, Zone};

    use super::*;

    fn guest() -> Snapshot {
        Snapshot {
            mem_total_kib: 500_000,
            zones: vec![Zone { node: 0, name: "DMA32".into(), present_pages: 9, managed_pages: 8 }],
            blocks: vec![Block { number: 0, state: "online".into() }],
            cpus_present: vec![0, 1],
            cpus_online: vec![0, 1],
            tainted: 0,
        }
    }

    #[test]
    fn each_account_has_to_be_back() {
        assert_eq!(changed(&guest(), &guest()), None);
        let left = |change: fn(&mut Snapshot)| {
            let mut now = guest();
            change(&mut now);
            changed(&guest(), &now).unwrap()
        };
        assert_eq!(left(|s| s.mem_total_kib -= 4), "MemTotal is 499996 KiB, was 500000");
        assert_eq!(left(|s| s.zones[0].managed_pages += 1), "node 0 zone DMA32 has other pages");
        assert_eq!(left(|s| s.zones.clear()), "a zone is gone");
        assert_eq!(left(|s| s.blocks[0].state = "offline".into()), "other memory blocks are there or online");
        assert_eq!(left(|s| s.cpus_present.push(2)), "other CPUs are present");
        assert_eq!(left(|s| s.cpus_online.truncate(1)), "other CPUs are online");
        assert_eq!(left(|s| s.tainted = 512), "the kernel is tainted");
    }

    #[test]
    fn what_stays_of_a_trial_is_found() {
        let first = Rest { at: GuestTime(0), processes: 2, kernel_threads: 60, available_kib: 400_000 };
        assert_eq!(more(&first, &first), None);
        assert_eq!(more(&first, &Rest { available_kib: 395_000, kernel_threads: 70, ..first }), None);
        let left = |rest| more(&first, &rest).unwrap();
        assert_eq!(left(Rest { processes: 3, ..first }), "3 processes, were 2");
        assert_eq!(left(Rest { kernel_threads: 77, ..first }), "77 kernel threads, were 60");
        assert_eq!(left(Rest { available_kib: 380_000, ..first }), "380000 KiB are available, were 400000");
    }

    #[test]
    fn a_clock_that_goes_wrong_is_found() {
        let began = Clocks { host: Instant::now(), guest: GuestTime(5_000_000) };
        let after = |guest| Clocks { host: began.host + Duration::from_secs(1), guest: GuestTime(guest) };
        assert_eq!(drifted(began, after(6_100_000)), None);
        let wrong = drifted(began, after(5_100_000)).unwrap();
        assert_eq!(wrong, "its clock went 0.1 s in 1.0 s of the host's");
    }
}

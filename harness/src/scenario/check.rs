//! Checks of a scenario beyond its syntax: devices exist and fit the machine, and every move is
//! legal.

mod machine;
mod step;

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;

use self::machine::{able, devices, machine};
use self::step::step;
use super::file::{File, LaneTable, RandomTable, StepTable};
use super::{Holds, Lane, Move, Operation, Program, Random, Scenario, Start, Step, program};
use crate::arch::Ability;
use crate::device::{Device, DeviceId};
use crate::fault::Fault;

/// The members of each group, in order, by the group's name.
type Groups = BTreeMap<String, Vec<DeviceId>>;

type Devices = BTreeMap<DeviceId, Device>;

/// The default limit of an operation. It is longer than the kernel's own limits, so that the guest
/// reports a hung task or a stall before the harness gives the operation up
/// (`hung_task_timeout_secs` in `qemu::command_line`).
const TIME_LIMIT_S: u32 = 75;

pub(super) fn check(name: String, mut file: File) -> Result<Scenario, Fault> {
    if *file.trials.get_ref() == 0 {
        return Err(Fault::new(
            file.trials.span(),
            "without trials there is no verdict",
            "trials = 6 or more",
        ));
    }
    if let Some(limit) = file.time_limit_s.as_ref().filter(|limit| *limit.get_ref() == 0) {
        return Err(Fault::new(limit.span(), "every operation would count as hung", "time_limit_s = 75"));
    }
    machine(&file.machine)?;
    let programs = program::checked(&file.program, &mut file.guest)?;
    if let Some(timing) = &file.latency
        && timing.get_ref().victims.iter().any(|victim| victim.load.program.is_some())
    {
        let what = "a victim is a load of the agent, and no program";
        return Err(Fault::new(timing.span(), what, "time a metric of its own, or another load"));
    }
    let (groups, devices) = devices(&file)?;
    let mut lanes: Vec<Lane> = Vec::new();
    let mut owner: BTreeMap<DeviceId, String> = BTreeMap::new();
    for table in &file.lane {
        let lane = lane(table.get_ref(), &groups, &devices)?;
        for id in lane.steps.iter().flat_map(|step| &step.operations).filter_map(Operation::device) {
            let first = owner.entry(id.clone()).or_insert_with(|| lane.name.clone());
            if *first != lane.name {
                let what = format!("`{id}` is moved by two lanes, `{first}` and `{}`", lane.name);
                return Err(Fault::new(table.span(), what, "give each lane devices of its own"));
            }
        }
        if lanes.iter().any(|other| other.name == lane.name) {
            let what = format!("two lanes are called `{}`", lane.name);
            return Err(Fault::new(table.span(), what, "give each lane a name of its own"));
        }
        lanes.push(lane);
    }
    meetings(&file, &lanes)?;
    let random = file.random.as_ref().map(|table| random(table, &groups, &devices, &owner)).transpose()?;
    if lanes.is_empty() && random.is_none() {
        let help = "add a [[lane]] with steps, or [random]";
        return Err(Fault::new(file.machine.span(), "the scenario has no lane", help));
    }
    let reboots = |lane: &Lane| lane.steps.iter().any(|s| s.operations.contains(&Operation::Reboot));
    let alone = lanes.len() == 1 && random.is_none() && !file.guest.is_busy();
    if let Some(table) = file.lane.iter().zip(&lanes).find(|(_, lane)| reboots(lane) && !alone) {
        let what = "a reboot cuts off every other operation in flight";
        return Err(Fault::new(table.0.span(), what, "reboot in the only lane of a scenario without load"));
    }
    if file.start == Start::Boot && file.guest.is_busy() {
        let what = "load and typing begin when the guest answers, after the lanes of `start = \"boot\"`";
        return Err(Fault::new(file.machine.span(), what, "leave them out"));
    }
    if let Some(table) = &file.latency {
        if let Some((what, help)) = table.get_ref().wrong() {
            return Err(Fault::new(table.span(), what, help));
        }
        if file.start == Start::Boot {
            let what = "latency compares boots with each other, so it cannot time the boot itself";
            return Err(Fault::new(table.span(), what, "leave [latency] out"));
        }
    }
    if let Some(table) = &file.overlap {
        if let Some((what, help)) = table.get_ref().wrong() {
            return Err(Fault::new(table.span(), what, help));
        }
        if file.start == Start::Boot {
            let what = "the tracer starts when the guest answers, after the lanes of `start = \"boot\"`";
            return Err(Fault::new(table.span(), what, "leave [overlap] out"));
        }
    }
    let holds = holds(&file)?;
    called(&file, &programs)?;
    let machine = file.machine.span();
    let scenario = Scenario {
        name,
        programs,
        files: None,
        about: file.about,
        trials: file.trials.into_inner(),
        start: file.start,
        time_limit_s: file.time_limit_s.map_or(TIME_LIMIT_S, Spanned::into_inner),
        machine: file.machine.into_inner(),
        guest: file.guest,
        devices,
        lanes,
        random,
        latency: file.latency.map(Spanned::into_inner),
        overlap: file.overlap.map(Spanned::into_inner),
        holds,
    };
    able(&scenario.machine, machine, Ability::Suspend, scenario.suspends())?;
    Ok(scenario)
}

/// Checks that every step's program is there, and that every program is run.
fn called(file: &File, programs: &BTreeMap<String, Program>) -> Result<(), Fault> {
    let random = file.random.iter().flat_map(|table| &table.get_ref().of);
    let steps: Vec<_> = file.lane.iter().flat_map(|table| &table.get_ref().steps).chain(random).collect();
    let names: Vec<_> = steps.iter().filter_map(|step| step.get_ref().program.as_ref()).collect();
    if let Some(name) = names.iter().find(|name| !programs.contains_key(name.get_ref())) {
        let what = format!("no program is called `{}`", name.get_ref());
        return Err(Fault::new(name.span(), what, "add a [[program]] with this name"));
    }
    let is_run = |name: &str| {
        names.iter().any(|called| called.get_ref() == name)
            || file.guest.load.iter().any(|load| program::is_run_by(load, name))
    };
    if let Some(table) = file.program.iter().find(|table| !is_run(&table.get_ref().name)) {
        let what = format!("no step and no load runs the program `{}`", table.get_ref().name);
        return Err(Fault::new(table.span(), what, "add a step { program = \"...\" }, or a load"));
    }
    if file.start == Start::Boot
        && let Some(table) = file.program.first()
    {
        let what = "programs run once the guest answers, after the lanes of `start = \"boot\"`";
        return Err(Fault::new(table.span(), what, "leave it out"));
    }
    Ok(())
}

/// Checks that the holds are possible. Whether the kernels have these places is checked when the
/// kernels are built.
fn holds(file: &File) -> Result<Holds, Fault> {
    type Said = Option<(String, &'static str)>;
    let rendezvous = file.rendezvous.iter().map(|table| (table.span(), table.get_ref().wrong()));
    let sweep = file.sweep.iter().map(|table| (table.span(), table.get_ref().wrong()));
    let delay = file.delay.iter().map(|table| (table.span(), table.get_ref().wrong()));
    let delays = file.delays.iter().map(|table| (table.span(), table.get_ref().wrong()));
    let all: Vec<(std::ops::Range<usize>, Said)> =
        rendezvous.chain(sweep).chain(delay).chain(delays).collect();
    for (span, said) in all {
        if let Some((what, help)) = said {
            return Err(Fault::new(span, what, help));
        }
        able(file.machine.get_ref(), span.clone(), Ability::Holds, true)?;
        if file.start == Start::Boot {
            let what = "vCPUs are held once the guest answers, after the lanes of `start = \"boot\"`";
            return Err(Fault::new(span, what, "leave it out"));
        }
        if file.machine.get_ref().max_cpus < 2 {
            let what = "while the only vCPU is held, no other task can run";
            return Err(Fault::new(span, what, "max_cpus = 2, or more"));
        }
    }
    let meets = !file.rendezvous.is_empty() || file.sweep.is_some();
    if let Some(span) = file.delay.first().map(Spanned::span).or(file.delays.as_ref().map(Spanned::span))
        && meets
    {
        let what = "a delay would also hold the tasks that are on their way to a rendezvous";
        return Err(Fault::new(span, what, "use delays, or a rendezvous"));
    }
    Ok(Holds {
        rendezvous: file.rendezvous.iter().map(|table| table.get_ref().clone()).collect(),
        sweep: file.sweep.as_ref().map(|table| table.get_ref().clone()),
        delay: file.delay.iter().map(|table| table.get_ref().clone()).collect(),
        delays: file.delays.as_ref().map(|table| table.get_ref().clone()),
    })
}

fn lane(table: &LaneTable, groups: &Groups, devices: &Devices) -> Result<Lane, Fault> {
    let mut plugged = BTreeSet::new();
    let mut steps = Vec::new();
    // The steps are checked twice: the second round begins with what the first leaves plugged.
    for round in 0..2 {
        for raw in &table.steps {
            let step = step(raw, groups, devices)?;
            if step.expect == super::Expect::Done {
                moves_legally(&step, raw, &mut plugged, round)?;
            }
            if round == 0 {
                steps.push(step);
            }
        }
        if table.repeat <= 1 {
            break;
        }
    }
    Ok(Lane { name: table.name.clone(), repeat: table.repeat.max(1), steps })
}

fn moves_legally(
    step: &Step,
    raw: &Spanned<StepTable>,
    plugged: &mut BTreeSet<DeviceId>,
    round: u32,
) -> Result<(), Fault> {
    for operation in &step.operations {
        if let Some(id) = operation.device()
            && !operation.takes_its_turn(plugged)
        {
            let state = if operation.verb() == "plug" { "plugged already" } else { "not plugged" };
            let when = if round == 0 { "" } else { ", in the second round" };
            let what = format!("`{id}` is {state} at this step{when}");
            let help = "plug and unplug in turn; expect = \"refused\" for a step that is illegal on purpose";
            return Err(Fault::new(raw.span(), what, help));
        }
    }
    Ok(())
}

/// Checks that several lanes pass each barrier equally often, and that each trigger is a step of
/// another lane.
fn meetings(file: &File, lanes: &[Lane]) -> Result<(), Fault> {
    let mut barriers: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for lane in lanes {
        let mut own: BTreeMap<&str, u32> = BTreeMap::new();
        for name in lane.steps.iter().filter_map(|step| step.barrier.as_deref()) {
            *own.entry(name).or_default() += lane.repeat;
        }
        for (name, times) in own {
            barriers.entry(name).or_default().push(times);
        }
    }
    for (table, lane) in file.lane.iter().zip(lanes) {
        for raw in &table.get_ref().steps {
            let step = raw.get_ref();
            if let Some(name) = &step.barrier {
                let times = &barriers[name.get_ref().as_str()];
                if times.len() < 2 || times.iter().any(|n| *n != times[0]) {
                    let what =
                        format!("barrier `{}` is not named by two lanes equally often", name.get_ref());
                    let help = "name it in each lane, with the same repeat";
                    return Err(Fault::new(name.span(), what, help));
                }
            }
            if let Some(after) = &step.after {
                let wanted = after.get_ref().step.get_ref();
                let others = lanes.iter().filter(|other| other.name != lane.name);
                let mut known = others.flat_map(|other| &other.steps).flat_map(|step| &step.operations);
                if !known.any(|operation| operation.matches(wanted)) {
                    let what = format!("no other lane has a step that does `{wanted}`");
                    let help = "step = \"unplug dimm0\", or \"unplug dimm\" for any of them";
                    return Err(Fault::new(after.get_ref().step.span(), what, help));
                }
            }
        }
    }
    Ok(())
}

fn random(
    table: &Spanned<RandomTable>,
    groups: &Groups,
    devices: &Devices,
    owner: &BTreeMap<DeviceId, String>,
) -> Result<Random, Fault> {
    let raw = table.get_ref();
    for (number, key) in [(&raw.lanes, "lanes"), (&raw.moves, "moves")] {
        if *number.get_ref() == 0 {
            return Err(Fault::new(number.span(), format!("{key} = 0 does nothing"), "give 1 or more"));
        }
    }
    if let Some(percent) = raw.illegal_percent.as_ref().filter(|percent| *percent.get_ref() > 100) {
        return Err(Fault::new(percent.span(), "a share is at most 100 percent", "illegal_percent = 10"));
    }
    let mut of = Vec::new();
    for one in &raw.of {
        let step = step(one, groups, devices)?;
        let weight = one.get_ref().weight.as_ref().map_or(1, |weight| *weight.get_ref());
        let at_most = one.get_ref().at_most.as_ref().map_or(u32::MAX, |most| *most.get_ref());
        if step.operations.is_empty() || step.barrier.is_some() || step.after.is_some() {
            let what = "a random move needs an operation, and cannot wait for another lane";
            return Err(Fault::new(one.span(), what, "use barrier and after in a [[lane]]"));
        }
        if step.operations.contains(&Operation::Reboot) {
            let what = "a reboot cuts off every other operation in flight";
            return Err(Fault::new(one.span(), what, "leave it to a scenario with one lane"));
        }
        if let Some(id) =
            step.operations.iter().filter_map(Operation::device).find(|id| owner.contains_key(id))
        {
            let what = format!("`{id}` is moved by lane `{}`", owner[id]);
            return Err(Fault::new(one.span(), what, "give the random lanes devices of their own"));
        }
        of.push(Move { weight, at_most, step });
    }
    if of.is_empty() || of.iter().all(|one| one.weight == 0) {
        let help = "add a [[random.move]] with a weight";
        return Err(Fault::new(table.span(), "there is no move to choose", help));
    }
    Ok(Random {
        lanes: *raw.lanes.get_ref(),
        moves: *raw.moves.get_ref(),
        pause_up_to_ms: raw.pause_up_to_ms,
        illegal_percent: raw.illegal_percent.as_ref().map_or(0, |percent| *percent.get_ref()),
        of,
    })
}

#[cfg(test)]
mod tests {
    use crate::scenario::{SAMPLE, Scenario};

    const GOOD: &str = r#"about = "a test"
trials = 2
[machine]
cpus = 1
max_cpus = 2
memory = "512M"
max_memory = "1G"
slots = 2
[[dimm]]
name = "dimm"
count = 2
size = "256M"
[[cpu]]
name = "cpu"
[[lane]]
name = "all"
repeat = 2
steps = [{ plug = "dimm", in_flight = 2 }, { plug = "cpu0" }, { unplug = "cpu" }, { unplug = "dimm" }]
"#;

    fn fault(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from));
        Scenario::parse("dir/test.toml", &GOOD.replacen(from, to, 1)).unwrap_err().to_string()
    }

    #[test]
    fn the_shipped_scenario_and_a_small_one_are_good() {
        Scenario::parse(SAMPLE.0, SAMPLE.1).unwrap();
        let scenario = Scenario::parse("dir/test.toml", GOOD).unwrap();
        assert_eq!(scenario.name, "test");
        assert_eq!(scenario.devices.len(), 3);
        assert!(scenario.removes_cpus());
    }

    #[test]
    fn every_shipped_scenario_is_good_and_drawn_legally() {
        for path in crate::scenario::shipped() {
            let (scenario, text) = Scenario::read(&path).unwrap();
            assert!(text.starts_with("# "), "{} does not say what it is for", scenario.name);
            for number in 0..50 {
                let schedule = scenario.schedule(crate::scenario::Seed(u64::from(number)), number);
                assert!(schedule.lanes.iter().any(|lane| !lane.batches.is_empty()), "{}", scenario.name);
                let plugs = schedule.lanes.iter().flat_map(|lane| &lane.batches).filter(|batch| {
                    batch.expect != super::super::Expect::Refused
                        && batch.operations.iter().any(|o| scenario.plugs_cpu(o))
                });
                let most = scenario.machine.max_cpus - scenario.machine.cpus;
                assert!(scenario.random.is_none() || plugs.count() <= most as usize, "{}", scenario.name);
            }
        }
    }

    #[test]
    fn what_a_machine_of_power_lacks_is_refused_by_name() {
        let power = |from: &str, to: &str| {
            let text = GOOD.replace("[machine]", "[machine]\nkind = \"pseries\"").replace(from, to);
            Scenario::parse("dir/test.toml", &text).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(power("", ""), Ok(()));
        for (from, to, fault) in [
            ("\"256M\"", "\"128M\"", "not a multiple of 256M, the unit of memory hotplug"),
            ("slots = 2", "slots = 2\nhmat = true", "a guest of ppc64le has no HMAT"),
            ("max_cpus = 2", "max_cpus = 2\ntopology = { threads = 2 }", "ppc64le has no dies, or threads"),
            (
                "{ unplug = \"dimm\" }]",
                "{ unplug = \"dimm\" }, { write = \"/sys/power/state\", data = \"mem\" }]",
                "ppc64le has no suspend",
            ),
            (
                "[[cpu]]",
                "[[nvdimm]]\nname = \"pmem\"\nsize = \"256M\"\n[[cpu]]",
                "a guest of ppc64le has no nvdimms",
            ),
            (
                "[[cpu]]",
                "[[virtio_mem]]\nname = \"mem\"\nsize = \"256M\"\n[[cpu]]",
                "a guest of ppc64le has no virtio-mem",
            ),
            (
                "[[lane]]",
                "[sweep]\nfunctions = [\"offline_pages\"]\nagainst = [\"_cpu_up\"]\n[[lane]]",
                "a guest of ppc64le has no holds and delays",
            ),
            ("slots = 2", "slots = 2\noptions = [\"a b\"]", "`a b` is no option of a machine"),
        ] {
            let error = power(from, to).unwrap_err();
            assert!(error.contains(fault), "{to}: {error}");
        }
    }

    #[test]
    fn every_fault_is_pointed_at() {
        insta::assert_snapshot!(fault("in_flight = 2", "inflight = 2"));
        insta::assert_snapshot!(fault("\"256M\"", "\"100M\""));
        insta::assert_snapshot!(fault("plug = \"cpu0\"", "plug = \"cpu7\""));
        insta::assert_snapshot!(fault("{ unplug = \"cpu\" }", "{ plug = \"cpu\" }"));
        insta::assert_snapshot!(fault(", { unplug = \"dimm\" }", ""));
        insta::assert_snapshot!(fault("slots = 2", "slots = 1"));
        insta::assert_snapshot!(fault("max_memory = \"1G\"", "max_memory = \"768M\""));
        insta::assert_snapshot!(fault("max_cpus = 2", "max_cpus = 1"));
        insta::assert_snapshot!(fault("in_flight = 2", "in_flight = 0"));
        insta::assert_snapshot!(fault("{ plug = \"cpu0\" }", "{ plug = \"cpu0\", unplug = \"dimm0\" }"));
        insta::assert_snapshot!(fault("{ plug = \"cpu0\" }", "{ barrier = \"alone\" }"));
        insta::assert_snapshot!(fault("{ plug = \"cpu0\" }", "{ write = \"sys\", data = \"1\" }"));
        insta::assert_snapshot!(fault("{ plug = \"cpu0\" }", "{ offline = \"block:1\" }"));
        let after = "{ plug = \"cpu0\", after = { step = \"unplug dimm\", phase = \"accepted\" } }";
        insta::assert_snapshot!(fault("{ plug = \"cpu0\" }", after));
        insta::assert_snapshot!(fault("slots = 2", "slots = 2\ntopology = { threads = 3 }"));
        insta::assert_snapshot!(fault("slots = 2", "slots = 2\nnode = [{ memory = \"256M\" }]"));
        insta::assert_snapshot!(fault("size = \"256M\"", "size = \"256M\"\nnode = 1"));
    }

    #[test]
    fn what_cannot_fail_or_show_is_pointed_at() {
        for (step, what) in [
            (r#"{ fail = "cpu:0" }"#, "names what fails"),
            (r#"{ fail = "cpu:0", at = "notifiers" }"#, "only memory has notifiers"),
            (r#"{ fail = "memory:1", at = "states" }"#, "only a CPU has states"),
            (r#"{ fail = "cpu:0", at = "states", parts = 0 }"#, "at least one part"),
            (r#"{ fail = "cpu:0", at = "states", parts = 2, part = 2 }"#, "numbered from 0"),
            (r#"{ plug = "cpu0", parts = 2 }"#, "`parts` belongs to a step that does fail"),
            (r#"{ read = "/proc/stat", shows = "(" }"#, "no regular expression"),
            (r#"{ write = "/a", data = "1", shows = "1" }"#, "`shows` belongs to a step that does read"),
        ] {
            let fault = fault("{ plug = \"cpu0\" }", step);
            assert!(fault.contains(what) && fault.contains("test.toml:18"), "{step}: {fault}");
        }
        for (keys, what) in [
            ("hmat = true", "the machine has none"),
            ("devices = [\"-drive\"]", "`-drive` is no device of QEMU"),
            ("devices = [\"a b\"]", "is no device of QEMU"),
        ] {
            let fault = fault("slots = 2", &format!("slots = 2\n{keys}"));
            assert!(fault.contains(what), "{keys}: {fault}");
        }
    }

    #[test]
    fn each_trial_makes_the_next_part_of_the_failures() {
        let text = GOOD.replace("{ plug = \"cpu0\" }", "{ fail = \"cpu:0\", at = \"states\", parts = 3 }");
        let text = text.replace(", { unplug = \"cpu\" }", "");
        let scenario = Scenario::parse("dir/test.toml", &text).unwrap();
        let part = |trial: u32| {
            let schedule = scenario.schedule(crate::scenario::Seed(1), trial);
            schedule.lanes[0].batches[1].operations[0].to_string()
        };
        assert_eq!(scenario.parts(), 3);
        assert_eq!(part(0), "fail cpu:0 at states, part 1 of 3");
        assert_eq!(part(4), "fail cpu:0 at states, part 2 of 3");
        let all: Vec<bool> =
            (0..6).map(|n| crate::scenario::Part { number: Some(1), of: 3 }.has(n)).collect();
        assert_eq!(all, [false, true, false, false, true, false]);
    }

    #[test]
    fn a_scenario_knows_the_options_that_it_needs() {
        let load = "slots = 2\n[guest]\nload = [{ kind = \"swapped-memory\", workers = 1 }]";
        let text = GOOD.replace("slots = 2", load);
        let text = text.replace("{ plug = \"cpu0\" }", "{ fail = \"memory:1\", at = \"allocations\" }");
        let scenario = Scenario::parse("dir/test.toml", &text.replace(", { unplug = \"cpu\" }", "")).unwrap();
        let needed: Vec<_> = scenario.kernel_options().into_iter().collect();
        assert_eq!(needed, ["FAILSLAB", "FAIL_PAGE_ALLOC", "SWAP", "ZRAM"]);
    }
}

//! QEMU's command line for a scenario's machine. It is a pure function: the same machine gives the
//! same arguments.

use std::collections::BTreeSet;
use std::path::Path;

use hotplug_protocol::{AGENT_LINE, AGENT_PORT, KMSG_LINE, KMSG_PORT};

use crate::arch::{Platform, SerialLine};
use crate::bytes::Bytes;
use crate::host::Accelerator;
use crate::scenario::{Clock, Guest, Machine, Scenario, Topology};

use super::Inherited;
use super::vcpus::more_cpus;

/// The options with which a guest is started.
#[derive(Debug, Clone, Copy)]
pub struct LaunchOptions {
    /// The accelerator, which runs the guest's code.
    pub accelerator: Accelerator,
    /// Whether this QEMU was built with its seccomp sandbox.
    pub sandbox: bool,
    /// The platform that the machine presents to the guest.
    pub platform: Platform,
    /// The counts of the guest's time stamp counter between two ticks of its timer, if they are
    /// known. Without them, each plugged CPU measures them itself, and is busy for up to 250 ms of
    /// its start (Documentation/admin-guide/kernel-parameters.txt, `lpj=`). That is a fifth of the
    /// cost of a standard trial, and it tests nothing.
    pub loops_per_jiffy: Option<u64>,
    /// The clock that guest time follows.
    pub clock: Clock,
    /// The state from which the guest starts.
    pub start: LaunchMode,
    /// Whether QEMU has a gdbstub, through which vCPUs can be held.
    pub gdb: bool,
}

/// The state from which a guest starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchMode {
    /// The kernel's entry.
    Cold,
    /// The kernel's entry, with the guest's memory in a file, so that a checkpoint can be saved.
    Template,
    /// A checkpoint. QEMU waits for the command to load it.
    Restored,
}

/// KVM by a device that QEMU inherits: the only one in its set 1 of file descriptors.
const KVM: &str = "kvm,device=/dev/fdset/1";

/// The arguments of a QEMU that opens KVM's device itself.
pub fn with_own_kvm(mut arguments: Vec<String>) -> Vec<String> {
    if let Some(set) = arguments.iter().position(|word| word == "-add-fd") {
        arguments.drain(set..set + 2);
    }
    if let Some(accelerator) = arguments.iter_mut().find(|word| *word == KVM) {
        "kvm".clone_into(accelerator);
    }
    arguments
}

/// The kernel's command line.
///
/// `panic=-1` reboots at once, and `-no-reboot` turns the reboot into an exit. The log buffer holds
/// all messages of a trial, in case the agent is slow. The 512 devices of BSD terminals, which no
/// guest uses, would take a third of a boot's initcalls (drivers/tty/pty.c).
/// `lines` are the serial lines of the agent's channels, if they are on some. `more_cpus` is the
/// number of CPUs of the machine that the kernel should ignore.
fn kernel_arguments(
    machine: &Machine,
    guest: &Guest,
    lines: Option<&[SerialLine; 2]>,
    loops_per_jiffy: Option<u64>,
    more_cpus: u32,
) -> String {
    let arch = machine.kind.arch();
    let own = if arch.kernel_args.is_empty() { String::new() } else { format!(" {}", arch.kernel_args) };
    let mut all = format!(
        "console={} panic=-1{own} pty.legacy_count=0 log_buf_len=16M sysctl.kernel.hung_task_timeout_secs=30 printk.devkmsg=on no_hash_pointers memhp_default_state={}",
        arch.console,
        guest.memory_online.kernel_word()
    );
    if let Some((option, loops)) = arch.delay_loop.zip(loops_per_jiffy) {
        all.extend([" ", option, "=", &loops.to_string()]);
    }
    if let Some([agent, kmsg]) = lines {
        all.extend([" ", AGENT_LINE, "=", agent.tty, " ", KMSG_LINE, "=", kmsg.tty]);
    }
    if let Some(option) = arch.possible_cpus.filter(|_| more_cpus > 0) {
        all.extend([" ", option, "=", &machine.max_cpus.to_string()]);
    }
    if !machine.kernel_args.is_empty() {
        all.push(' ');
        all.push_str(&machine.kernel_args);
    }
    all
}

/// All of QEMU's arguments, without the program's name. Files are named by the numbers under which
/// QEMU inherits them.
pub fn command_line(scenario: &Scenario, boot: LaunchOptions) -> Vec<String> {
    let machine = &scenario.machine;
    // In 7.3, virtio-console sends nothing after a suspend (docs/findings/virtio-console-suspend.md).
    // For other guests virtio-serial is faster under emulation.
    let arch = machine.kind.arch();
    let lines = arch.lines.filter(|_| scenario.suspends());
    let mut line: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| line.extend([option.to_owned(), value]);

    let poses = boot.accelerator == Accelerator::Tcg && boot.platform == Platform::Vmware;
    let vmport = if poses { ",vmport=on" } else { "" };
    // A restored guest writes to private pages. The pages of the checkpoint do not change.
    let memory_in_file = match boot.start {
        LaunchMode::Cold => None,
        LaunchMode::Template => Some("on"),
        LaunchMode::Restored => Some("off"),
    };
    let one_node = machine.nodes.is_empty();
    let backend = if memory_in_file.is_some() && one_node { ",memory-backend=ram" } else { "" };
    let options: BTreeSet<&str> =
        scenario.devices.values().filter_map(|device| device.machine_option()).collect();
    let options = options.into_iter().chain(machine.options.iter().map(String::as_str));
    let options: String = options.flat_map(|option| [",", option]).collect();
    let hmat = if machine.hmat { ",hmat=on" } else { "" };
    add("-machine", format!("{}{vmport}{options}{hmat}{backend}", machine.kind.name()));
    if poses {
        add("-smbios", "type=1,serial=VMware-".into());
    }
    let (accelerator, cpu) = match (boot.accelerator, boot.clock) {
        (Accelerator::Kvm, _) => (KVM, "host"),
        (Accelerator::Tcg, Clock::Wall) => ("tcg,thread=multi", arch.cpu_model),
        (Accelerator::Tcg, Clock::Exact) => ("tcg,thread=single", arch.cpu_model),
    };
    let cpu = machine.cpu_model.as_deref().unwrap_or(cpu);
    let hidden = if poses && !cpu.contains("hypervisor") { ",-hypervisor" } else { "" };
    if boot.accelerator == Accelerator::Kvm {
        add("-add-fd", format!("fd={},set=1", Inherited::Kvm.number()));
    }
    add("-accel", accelerator.into());
    if boot.clock == Clock::Exact {
        add("-icount", "shift=0,sleep=off".into());
    }
    add("-cpu", format!("{cpu}{hidden}"));
    let more_cpus = more_cpus(scenario, boot.accelerator);
    let max_cpus = machine.max_cpus + more_cpus;
    add("-smp", topology(machine, max_cpus));
    // Each node's memory is a part of the same file.
    let memory = |id: &str, size: Bytes, offset: u64| match memory_in_file {
        Some(share) => {
            let file = Inherited::Memory.path();
            let offset = if offset == 0 { String::new() } else { format!(",offset={offset}") };
            format!("memory-backend-file,id={id},size={size},mem-path={file},share={share}{offset}")
        }
        None => format!("memory-backend-ram,id={id},size={size}"),
    };
    if memory_in_file.is_some() && one_node {
        add("-object", memory("ram", machine.memory, 0));
    }
    for (option, value) in numa(machine, max_cpus, &memory) {
        add(option, value);
    }
    add("-m", format!("{},slots={},maxmem={}", machine.memory, machine.slots, machine.max_memory));
    add("-kernel", Inherited::Kernel.path());
    add("-initrd", Inherited::Initrd.path());
    add("-append", kernel_arguments(machine, &scenario.guest, lines, boot.loops_per_jiffy, more_cpus));

    // Before all others: an IOMMU translates only for devices that come after it.
    for device in &machine.devices {
        add("-device", device.clone());
    }
    let socket = |id: &str, file: Inherited| format!("socket,id={id},fd={}", file.number());
    add("-chardev", socket("qmp", Inherited::Qmp));
    add("-mon", "chardev=qmp,mode=control".into());
    add("-chardev", socket("serial", Inherited::Serial));
    add("-serial", "chardev:serial".into());
    add("-chardev", socket("agent", Inherited::Agent));
    add("-chardev", socket("kmsg", Inherited::Kmsg));
    if let Some([agent, kmsg]) = lines {
        add("-device", format!("{},chardev=agent", agent.device));
        add("-device", format!("{},chardev=kmsg", kmsg.device));
    } else {
        add("-device", "virtio-serial-pci,id=channels".into());
        add("-device", format!("virtserialport,chardev=agent,name={AGENT_PORT}"));
        add("-device", format!("virtserialport,chardev=kmsg,name={KMSG_PORT}"));
    }
    if boot.gdb {
        // QEMU calls the device of a stub that it opens later `gdb`.
        add("-chardev", socket("stub", Inherited::Gdb));
        add("-gdb", "chardev:stub".into());
    }
    add("-device", "virtio-rng-pci".into());
    line.extend(scenario.devices.iter().flat_map(|(id, device)| device.at_start(id)));
    let mut add = |option: &str, value: String| line.extend([option.to_owned(), value]);
    // The guest has no network, no display and no default devices, so it cannot reach anything.
    add("-nic", "none".into());
    add("-display", "none".into());
    if boot.start == LaunchMode::Restored {
        add("-incoming", "defer".into());
    }
    if boot.sandbox {
        add("-sandbox", super::sandbox::SANDBOX.into());
    }
    line.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(String::from));
    line
}

/// The shell command that runs `program` with these arguments, with one option a line.
pub fn shell_words(program: &Path, arguments: &[String]) -> String {
    let mut text = shell_word(&program.display().to_string());
    for word in arguments {
        text.push_str(if word.starts_with('-') { " \\\n  " } else { " " });
        text.push_str(&shell_word(word));
    }
    text
}

/// Quotes a word for a shell, if it needs quotes.
pub fn shell_word(word: &str) -> String {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "-_=,./:".contains(c)) && !word.is_empty();
    if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// The options of the NUMA nodes. `memory` gives the backend with an id, of a size, at an offset.
fn numa(
    machine: &Machine,
    max_cpus: u32,
    memory: &dyn Fn(&str, Bytes, u64) -> String,
) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let mut offset = 0;
    for (number, node) in machine.nodes.iter().enumerate() {
        let size = node.memory();
        let nearest = if node.cpus.is_empty() { 0 } else { number };
        let initiator = if machine.hmat { format!(",initiator={nearest}") } else { String::new() };
        if size.0 == 0 {
            all.push(("-numa", format!("node,nodeid={number}{initiator}")));
        } else {
            all.push(("-object", memory(&format!("ram{number}"), size, offset)));
            all.push(("-numa", format!("node,nodeid={number},memdev=ram{number}{initiator}")));
        }
        offset += size.0;
    }
    for slot in (0..max_cpus).filter(|_| !machine.nodes.is_empty()) {
        let named = machine.nodes.iter().position(|node| node.cpus.contains(&slot));
        all.push(("-numa", format!("cpu,node-id={},{}", named.unwrap_or(0), place(machine, max_cpus, slot))));
    }
    // After the CPUs: only a node with CPUs can be an initiator.
    for (initiator, target, is_near) in memory_speeds(machine) {
        // Nanoseconds and bytes a second, of the order of DRAM and of memory behind a link.
        let (latency, bandwidth) = if is_near { (100, "10G") } else { (300, "2G") };
        let of = format!("hmat-lb,initiator={initiator},target={target},hierarchy=memory,data-type=access");
        all.push(("-numa", format!("{of}-latency,latency={latency}")));
        all.push(("-numa", format!("{of}-bandwidth,bandwidth={bandwidth}")));
    }
    all
}

/// The nodes of CPUs and of memory whose speed the firmware describes, and whether the two are one.
fn memory_speeds(machine: &Machine) -> impl Iterator<Item = (usize, usize, bool)> + '_ {
    let nodes = machine.nodes.iter().enumerate().filter(|_| machine.hmat);
    let initiators = nodes.clone().filter(|(number, node)| *number == 0 || !node.cpus.is_empty());
    initiators.flat_map(move |(from, _)| nodes.clone().map(move |(to, _)| (from, to, from == to)))
}

/// The value of `-smp`.
fn topology(machine: &Machine, max_cpus: u32) -> String {
    let Topology { sockets, dies, threads, .. } = machine.topology;
    let cores = machine.topology.cores(max_cpus).unwrap_or(max_cpus);
    let dies = if dies == 1 { String::new() } else { format!(",dies={dies}") };
    let threads = if threads == 1 { String::new() } else { format!(",threads={threads}") };
    format!("{},sockets={sockets}{dies},cores={cores}{threads},maxcpus={max_cpus}", machine.cpus)
}

/// The place of a CPU slot in the topology. The thread changes fastest with the slot's number, and
/// the socket slowest.
fn place(machine: &Machine, max_cpus: u32, slot: u32) -> String {
    let Topology { dies, threads, .. } = machine.topology;
    let cores = machine.topology.cores(max_cpus).unwrap_or(1);
    let (thread, core) = (slot % threads, slot / threads % cores);
    let (die, socket) = (slot / threads / cores % dies, slot / threads / cores / dies);
    let die = if dies == 1 { String::new() } else { format!(",die-id={die}") };
    if !machine.kind.arch().places_have_sockets {
        return format!("core-id={core}");
    }
    format!("socket-id={socket}{die},core-id={core},thread-id={thread}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Accelerator;
    use crate::scenario::{Clock, SAMPLE, Scenario};

    fn boot(accelerator: Accelerator, platform: Platform, start: LaunchMode) -> LaunchOptions {
        let clock = Clock::Wall;
        LaunchOptions {
            accelerator,
            sandbox: true,
            platform,
            loops_per_jiffy: Some(10_400_000),
            clock,
            start,
            gdb: false,
        }
    }

    fn words(boot: LaunchOptions) -> Vec<String> {
        let scenario = Scenario::parse(SAMPLE.0, SAMPLE.1).unwrap();
        command_line(&scenario, boot)
    }

    #[test]
    fn the_command_line_of_the_first_scenario() {
        let cold = boot(Accelerator::Tcg, Platform::Qemu, LaunchMode::Cold);
        insta::assert_snapshot!(words(cold).join("\n"));
    }

    #[test]
    fn the_command_line_of_a_power_guest() {
        let file = Path::new("pseries-hash");
        let (scenario, _) = Scenario::read(file).unwrap();
        let cold = boot(Accelerator::Tcg, Platform::Qemu, LaunchMode::Cold);
        insta::assert_snapshot!(command_line(&scenario, cold).join("\n"));
    }

    #[test]
    fn a_guest_that_suspends_has_its_channels_on_serial_lines() {
        let sleeps =
            "[[lane]]\nname = \"sleep\"\nsteps = [{ write = \"/sys/power/state\", data = \"mem\" }]\n";
        let scenario = Scenario::parse(SAMPLE.0, &format!("{}{sleeps}", SAMPLE.1)).unwrap();
        let line =
            command_line(&scenario, boot(Accelerator::Tcg, Platform::Qemu, LaunchMode::Cold)).join(" ");
        assert!(line.contains("hotplug_agent=ttyS1 hotplug_kmsg=ttyS2"), "{line}");
        assert!(line.contains("-device isa-serial,index=1,chardev=agent"), "{line}");
        assert!(line.contains("-device isa-serial,index=2,irq=5,chardev=kmsg"), "{line}");
        assert!(!line.contains("virtio-serial"), "{line}");
    }

    #[test]
    fn further_devices_come_first_and_the_firmware_describes_memory() {
        let (file, text) = SAMPLE;
        let mut scenario = Scenario::parse(file, text).unwrap();
        scenario.machine.devices = vec!["intel-iommu".into()];
        scenario.machine.hmat = true;
        let node = |cpus: &[u32]| crate::scenario::NumaNode { memory: None, cpus: cpus.to_vec() };
        scenario.machine.nodes = vec![node(&[0, 1]), node(&[])];
        let line =
            command_line(&scenario, boot(Accelerator::Tcg, Platform::Qemu, LaunchMode::Cold)).join(" ");
        let place = |words: &str| line.find(words).unwrap_or_else(|| panic!("{words}: {line}"));
        assert!(place("-device intel-iommu") < place("-device virtio-serial-pci"));
        assert!(place("q35,hmat=on") < place("node,nodeid=1,initiator=0"));
        let speed = "hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=access-latency,latency=300";
        assert!(place("cpu,node-id=0") < place(speed));
        assert_eq!(line.matches("hmat-lb").count(), 4);
    }

    #[test]
    fn a_checkpoint_is_restored_into_the_machine_it_was_made_on() {
        let [template, restored] = [LaunchMode::Template, LaunchMode::Restored]
            .map(|s| words(boot(Accelerator::Tcg, Platform::Qemu, s)));
        let only = |of: &[String], other: &[String]| -> Vec<String> {
            of.iter().filter(|word| !other.contains(word)).cloned().collect()
        };
        let memory = "memory-backend-file,id=ram,size=512M,mem-path=/proc/self/fd/26,share=";
        assert_eq!(only(&template, &restored), [format!("{memory}on")]);
        assert_eq!(only(&restored, &template), [format!("{memory}off"), "-incoming".into(), "defer".into()]);
    }

    #[test]
    fn a_qemu_that_inherits_kvm_needs_no_permission_for_it() {
        let line = words(boot(Accelerator::Kvm, Platform::Qemu, LaunchMode::Cold));
        let start = ["-machine", "q35", "-add-fd", "fd=31,set=1", "-accel", "kvm,device=/dev/fdset/1"];
        assert_eq!(line[..6], start);
        let own = with_own_kvm(line.clone());
        assert_eq!(own[..5], ["-machine", "q35", "-accel", "kvm", "-cpu"]);
        assert_eq!(own[4..], line[6..]);
        let tcg = words(boot(Accelerator::Tcg, Platform::Qemu, LaunchMode::Cold));
        assert_eq!(with_own_kvm(tcg.clone()), tcg);
    }

    #[test]
    fn only_tcg_poses() {
        let words = |accelerator, platform| words(boot(accelerator, platform, LaunchMode::Cold)).join(" ");
        let posing = words(Accelerator::Tcg, Platform::Vmware);
        let start = "-machine q35,vmport=on -smbios type=1,serial=VMware- -accel tcg,thread=multi -cpu max,-hypervisor ";
        assert!(posing.starts_with(start), "{posing}");
        assert_eq!(words(Accelerator::Kvm, Platform::Vmware), words(Accelerator::Kvm, Platform::Qemu));
        // Whatever the scenario's CPU model is, it has the bit in which TCG says that it is one.
        for (model, expected) in [("EPYC", "EPYC,-hypervisor"), ("max,+hypervisor", "max,+hypervisor")] {
            let text = SAMPLE.1.replace("[machine]", &format!("[machine]\ncpu_model = \"{model}\""));
            let scenario = Scenario::parse(SAMPLE.0, &text).unwrap();
            let line = command_line(&scenario, boot(Accelerator::Tcg, Platform::Vmware, LaunchMode::Cold));
            let model = line.iter().position(|word| word == "-cpu").unwrap() + 1;
            assert_eq!(line[model], expected);
        }
    }
}

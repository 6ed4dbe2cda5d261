//! QEMU's command line for a scenario's machine. Pure: the same machine gives the same words.

use std::path::{Path, PathBuf};

use crate::host::Accelerator;
use crate::scenario::{Guest, Machine};

/// What is booted.
#[derive(Debug, Clone)]
pub struct Boot {
    /// The bzImage.
    pub kernel: PathBuf,
    /// The agent's initramfs.
    pub initrd: PathBuf,
    /// How guest code is run.
    pub accelerator: Accelerator,
    /// Whether this QEMU was built with its seccomp sandbox.
    pub sandbox: bool,
    /// Who the machine says it is.
    pub platform: Platform,
}

/// Who the machine says it is, under TCG.
///
/// Kernels since 6.9 fix the set of possible CPUs at boot (`topology_hotplug_apic()`), and take ACPI's entries of CPUs
/// that are not there yet for possible ones only in a virtual machine (6.12.117, arch/x86/kernel/acpi/boot.c,
/// `acpi_is_processor_usable()`). TCG's own signature is none that Linux knows, so that each CPU that is plugged ends
/// in "Unable to map lapic to logical cpu number". What Linux can be shown without KVM is `VMware`'s backdoor port and
/// serial number, looked for when CPUID does not speak of a hypervisor (arch/x86/kernel/cpu/vmware.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// TCG, which Linux takes for bare metal.
    Qemu,
    /// A virtual machine that Linux knows.
    Vmware,
}

impl Platform {
    /// What kernels of these releases (`uname -r`) need; both sides of a pair get the same machine.
    pub fn for_releases<'a>(releases: impl IntoIterator<Item = &'a str>) -> Self {
        let needs = |release: &str| {
            let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
            let (major, minor): (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
            (major, minor) >= (6, 9)
        };
        if releases.into_iter().any(needs) { Self::Vmware } else { Self::Qemu }
    }
}

/// Paths of the sockets that the harness listens on. QEMU connects to them, so that nothing has to be waited for.
#[derive(Debug, Clone)]
pub struct Channels {
    /// The monitor.
    pub qmp: PathBuf,
    /// The serial console.
    pub serial: PathBuf,
    /// Requests to the agent.
    pub agent: PathBuf,
    /// Kernel records.
    pub kmsg: PathBuf,
}

impl Channels {
    /// Sockets in a private folder.
    pub fn below(folder: &Path) -> Self {
        let at = |name| folder.join(name);
        Self { qmp: at("qmp"), serial: at("serial"), agent: at("agent"), kmsg: at("kmsg") }
    }
}

/// The kernel's command line.
///
/// `idle=halt` spares TCG from emulated MWAIT, in which idle vCPUs starve the busy ones. `panic=-1` reboots at once,
/// which `-no-reboot` makes an exit. The log buffer holds a whole trial's printing, should the agent be slow.
fn kernel_arguments(machine: &Machine, guest: &Guest) -> String {
    let mut all = format!(
        "console=ttyS0 panic=-1 idle=halt log_buf_len=16M sysctl.kernel.hung_task_timeout_secs=30 printk.devkmsg=on no_hash_pointers memhp_default_state={}",
        guest.memory_online.kernel_word()
    );
    if !machine.kernel_args.is_empty() {
        all.push(' ');
        all.push_str(&machine.kernel_args);
    }
    all
}

/// All of QEMU's arguments, without its own name.
pub fn command_line(machine: &Machine, guest: &Guest, boot: &Boot, channels: &Channels) -> Vec<String> {
    let mut line: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| line.extend([option.to_owned(), value]);
    // Commas separate QEMU's options; doubled, they stand for themselves.
    let path = |path: &Path| path.display().to_string().replace(',', ",,");

    let poses = boot.accelerator == Accelerator::Tcg && boot.platform == Platform::Vmware;
    add("-machine", if poses { "q35,vmport=on" } else { "q35" }.into());
    if poses {
        add("-smbios", "type=1,serial=VMware-".into());
    }
    let (accelerator, cpu) = match boot.accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg,thread=multi", if poses { "max,-hypervisor" } else { "max" }),
    };
    add("-accel", accelerator.into());
    add("-cpu", cpu.into());
    add(
        "-smp",
        format!("{},sockets=1,cores={2},maxcpus={1}", machine.cpus, machine.max_cpus, machine.max_cpus),
    );
    add("-m", format!("{},slots={},maxmem={}", machine.memory, machine.slots, machine.max_memory));
    add("-kernel", boot.kernel.display().to_string());
    add("-initrd", boot.initrd.display().to_string());
    add("-append", kernel_arguments(machine, guest));

    add("-chardev", format!("socket,id=qmp,path={},server=off", path(&channels.qmp)));
    add("-mon", "chardev=qmp,mode=control".into());
    add("-chardev", format!("socket,id=serial,path={},server=off", path(&channels.serial)));
    add("-serial", "chardev:serial".into());
    add("-device", "virtio-serial-pci,id=channels".into());
    let ports = [
        ("agent", &channels.agent, hotplug_protocol::AGENT_PORT),
        ("kmsg", &channels.kmsg, hotplug_protocol::KMSG_PORT),
    ];
    for (id, socket, name) in ports {
        add("-chardev", format!("socket,id={id},path={},server=off", path(socket)));
        add("-device", format!("virtserialport,chardev={id},name={name}"));
    }
    add("-device", "virtio-rng-pci".into());
    // No network, no display, no default devices: a guest that can reach nothing.
    add("-nic", "none".into());
    add("-display", "none".into());
    if boot.sandbox {
        add("-sandbox", super::sandbox::SANDBOX.into());
    }
    line.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(String::from));
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Accelerator;
    use crate::scenario::{DEFAULT, Scenario};

    #[test]
    fn the_command_line_of_the_first_scenario() {
        let scenario = Scenario::parse(DEFAULT.0, DEFAULT.1).unwrap();
        let boot = Boot {
            kernel: "/cache/bzImage".into(),
            initrd: "/run/initrd".into(),
            accelerator: Accelerator::Tcg,
            sandbox: true,
            platform: Platform::Qemu,
        };
        let line =
            command_line(&scenario.machine, &scenario.guest, &boot, &Channels::below(Path::new("/run/a,b")));
        insta::assert_snapshot!(line.join("\n"));
    }

    #[test]
    fn only_tcg_poses() {
        let scenario = Scenario::parse(DEFAULT.0, DEFAULT.1).unwrap();
        let words = |accelerator, platform| {
            let boot =
                Boot { kernel: "/k".into(), initrd: "/i".into(), accelerator, sandbox: false, platform };
            let channels = Channels::below(Path::new("/run"));
            command_line(&scenario.machine, &scenario.guest, &boot, &channels).join(" ")
        };
        let posing = words(Accelerator::Tcg, Platform::Vmware);
        let start = "-machine q35,vmport=on -smbios type=1,serial=VMware- -accel tcg,thread=multi -cpu max,-hypervisor ";
        assert!(posing.starts_with(start), "{posing}");
        assert_eq!(words(Accelerator::Kvm, Platform::Vmware), words(Accelerator::Kvm, Platform::Qemu));
    }

    #[test]
    fn newer_kernels_are_shown_a_virtual_machine_that_they_know() {
        for (releases, platform) in [
            (["6.1.192", "6.1.192"], Platform::Qemu),
            (["6.8.0-rc1", "5.15.1"], Platform::Qemu),
            (["6.8.12", "6.12.117"], Platform::Vmware),
            (["7.0.0-rc2-next", "6.1"], Platform::Vmware),
            (["unknown", ""], Platform::Qemu),
        ] {
            assert_eq!(Platform::for_releases(releases), platform, "{releases:?}");
        }
    }
}

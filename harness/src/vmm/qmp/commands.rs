//! The commands that the harness sends, and the types of their arguments and answers, as QEMU's
//! qapi/*.json defines them. Answers and events have only the members that the harness reads.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A command of QMP. It serializes to its arguments.
pub trait QmpCommand: Serialize {
    /// Its name.
    const NAME: &'static str;
    /// The type of QEMU's answer.
    type Answer: DeserializeOwned;
}

/// The answer of a command that returns nothing.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Empty {}

/// Arguments that depend on the device, or on the object.
pub type Arguments = Map<String, Value>;

macro_rules! commands {
    ($($(#[$doc:meta])* $name:literal $command:ident { $($(#[$of:meta])* $field:ident: $kind:ty),* } -> $answer:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub struct $command { $(
            $(#[$of])*
            #[doc = concat!("`", stringify!($field), "` in QEMU's schema.")]
            pub $field: $kind,
        )* }

        impl QmpCommand for $command {
            const NAME: &'static str = $name;
            type Answer = $answer;
        }
    )*};
}

commands! {
    /// Ends the negotiation.
    "qmp_capabilities" QmpCapabilities {} -> Empty;
    /// Stops all vCPUs.
    "stop" StopVcpus {} -> Empty;
    /// Resumes all vCPUs.
    "cont" ContinueVcpus {} -> Empty;
    /// Queries whether the vCPUs run.
    "query-status" QueryStatus {} -> Status;
    /// Lists the plugged memory devices.
    "query-memory-devices" QueryMemoryDevices {} -> Vec<MemoryDevice>;
    /// Lists all possible CPUs.
    "query-hotpluggable-cpus" QueryHotpluggableCpus {} -> Vec<HotpluggableCpu>;
    /// Adds an object, such as the memory of a DIMM.
    "object-add" ObjectAdd { #[serde(flatten)] arguments: Arguments } -> Empty;
    /// Removes an object.
    "object-del" ObjectDel { id: String } -> Empty;
    /// Plugs a device.
    "device_add" DeviceAdd { #[serde(flatten)] arguments: Arguments } -> Empty;
    /// Requests that the guest releases a device.
    "device_del" DeviceDel { id: String } -> Empty;
    /// Sets a property of an object.
    "qom-set" QomSet { path: String, property: String, value: Value } -> Empty;
    /// Sets what QEMU does at a reboot of the guest: `reset` or `shutdown`.
    "set-action" SetAction { reboot: &'static str } -> Empty;
    /// Keeps a guest that shuts down, stopped: `pause` in place of `poweroff`.
    "set-action" SetShutdownAction { shutdown: &'static str } -> Empty;
    /// Writes the whole memory to a file for crash(8). With `detach` it only begins: the end is the
    /// event `DUMP_COMPLETED`.
    "dump-guest-memory" DumpGuestMemory { paging: bool, protocol: String, detach: bool, format: &'static str } -> Empty;
    /// Lists the character devices, with the addresses on which they listen.
    "query-chardev" QueryChardev {} -> Vec<Chardev>;
    /// Writes guest-physical memory to a file: `size` bytes from the address `val`.
    "pmemsave" Pmemsave { val: u64, size: u64, filename: String } -> Empty;
    /// Saves the guest's state.
    "migrate" Migrate { uri: String } -> Empty;
    /// Loads a guest's state.
    "migrate-incoming" MigrateIncoming { uri: String } -> Empty;
    /// Switches capabilities of migration.
    "migrate-set-capabilities" MigrateSetCapabilities { capabilities: Vec<MigrationCapability> } -> Empty;
    /// Runs a command of the human monitor.
    "human-monitor-command" HumanMonitorCommand { command_line: String } -> String;
    /// Sends a non-maskable interrupt to all CPUs.
    "inject-nmi" InjectNmi {} -> Empty;
}

/// A capability of migration.
#[derive(Debug, Clone, Serialize)]
pub struct MigrationCapability {
    /// Its name.
    pub capability: &'static str,
    /// Whether it is on.
    pub state: bool,
}

/// `ChardevInfo`.
#[derive(Debug, Clone, Deserialize)]
pub struct Chardev {
    /// Its name.
    pub label: String,
    /// What it is connected to, or where it listens.
    pub filename: String,
}

/// `StatusInfo`.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// Whether the vCPUs run.
    pub running: bool,
}

/// `MemoryDeviceInfo`.
#[derive(Debug, Clone, Deserialize)]
pub struct MemoryDevice {
    /// `dimm`, `nvdimm`, `virtio-mem`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Its other members.
    pub data: MemoryDeviceData,
}

/// The members that memory devices have in common. Not every kind has a slot.
#[derive(Debug, Clone, Deserialize)]
pub struct MemoryDeviceData {
    /// The device's id.
    pub id: Option<String>,
    /// Guest-physical address, bytes.
    pub addr: Option<u64>,
    /// Size, bytes.
    pub size: Option<u64>,
    /// Slot.
    pub slot: Option<u32>,
}

/// `HotpluggableCPU`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HotpluggableCpu {
    /// The driver that `device_add` takes.
    #[serde(rename = "type")]
    pub driver: String,
    /// The path of the CPU in QEMU's object tree. `None` if the slot is free.
    pub qom_path: Option<String>,
    /// Its place in the topology, which `device_add` takes as it is.
    pub props: Arguments,
}

/// The event `ACPI_DEVICE_OST`: the firmware's acknowledgement (ACPI specification 6.5, 6.3.5).
#[derive(Debug, Clone, Deserialize)]
pub struct AcpiDeviceOst {
    /// Its content.
    pub info: AcpiOst,
}

/// `ACPIOSTInfo`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AcpiOst {
    /// The slot's number.
    pub slot: String,
    /// `DIMM` or `CPU`.
    pub slot_type: String,
    /// The notification that is acknowledged.
    pub source: i64,
    /// Its status.
    pub status: i64,
}

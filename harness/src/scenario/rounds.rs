//! Whether a guest of a scenario can take several trials, one after the other.

use hotplug_protocol::LoadKind;

use super::{Operation, Scenario, Start};
impl Scenario {
    /// Why a guest takes only one trial: the trial changes what no account shows, or the harness
    /// can attach to the guest only once. `None` if guests can take several.
    pub fn ends_its_guest(&self) -> Option<&'static str> {
        if self.start == Start::Boot {
            return Some("it begins with the boot");
        }
        if !self.holds.is_empty() {
            return Some("it holds tasks or vCPUs");
        }
        let operations = self.operations().find_map(|operation| match operation {
            Operation::Write { .. } => Some("it writes to files"),
            Operation::Program(_) => Some("it runs programs"),
            Operation::Reboot => Some("it restarts the guest"),
            operation if operation.suspends() => Some("the guest suspends"),
            _ => None,
        });
        operations.or_else(|| {
            self.guest.load.iter().find_map(|load| match load.kind {
                LoadKind::Write => Some("a load writes to files"),
                LoadKind::Program => Some("a load runs programs"),
                _ => None,
            })
        })
    }
}

//! What needs the QEMU that is installed, and no kernel.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use hotplug::host::{Accelerator, Choice, Qemu, System, probe_accelerator};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_boot_sector_answers_under_tcg() {
    let qemu = Qemu::find(&System::this_machine()).await.unwrap();
    let qemu = qemu.expect("QEMU is needed: hotplug doctor --install");
    let probed = probe_accelerator(&qemu, Choice::Tcg, None, &CancellationToken::new()).await.unwrap();
    assert_eq!(probed.accelerator, Accelerator::Tcg);
}

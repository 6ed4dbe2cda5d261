//! Tests that need the installed QEMU, and no kernel.

use hotplug::ErrorKind;
use hotplug::arch::Architecture;
use hotplug::host::{Accelerator, AcceleratorRequest, Choice, Qemu, System, find_accelerator};
use hotplug::kernel::Cache;
use tokio_util::sync::CancellationToken;

/// The first request boots a guest. Later requests use the cached answer, unless a new probe is
/// requested.
#[tokio::test]
async fn a_boot_sector_answers_under_tcg_and_is_asked_once() {
    let qemu = Qemu::find(&System::this_machine(), Architecture::X86.table()).await.unwrap();
    let qemu = qemu.expect("QEMU is needed: hotplug doctor --install");
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path().join("cache")).unwrap();
    let cancel = CancellationToken::new();
    let ask = async |anew| {
        let request = AcceleratorRequest { choice: Choice::Tcg, anew };
        find_accelerator(&qemu, Architecture::X86, request, None, &cache, &cancel).await
    };
    assert_eq!(ask(false).await.unwrap().accelerator, Accelerator::Tcg);
    // From here on no guest can boot.
    cancel.cancel();
    assert_eq!(ask(false).await.unwrap().to_string(), "TCG (as asked)");
    assert_eq!(ask(true).await.unwrap_err().kind(), ErrorKind::Interrupted);
}

//! Tests whether this QEMU was built with its seccomp sandbox. QEMU is started for the test,
//! because its `-help` lists the option either way.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::limits::limits;

/// The value of `-sandbox`. It denies what QEMU does not need for a guest (qemu-options.hx).
pub(super) const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Starts QEMU without a machine, and makes it quit. This takes about 50 ms.
pub async fn has_sandbox(program: &Path) -> bool {
    let mut command = Command::new(program);
    command.args(["-machine", "none", "-nodefaults", "-no-user-config", "-display", "none"]);
    command.args(["-sandbox", SANDBOX, "-monitor", "stdio"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let Ok(mut child) = command.spawn() else { return false };
    if let Some(mut monitor) = child.stdin.take() {
        // A QEMU that rejected the option has exited already.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut monitor, b"quit\n").await;
    }
    let ended = tokio::time::timeout(limits().program, child.wait()).await;
    matches!(ended, Ok(Ok(status)) if status.success())
}

//! Whether this QEMU was built with its seccomp sandbox: asked of it, because its `-help` lists the option either way.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::limits::limits;

/// What a guest's QEMU has no business doing (qemu-options.hx: `-sandbox`).
pub(super) const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Starts it without a machine and lets it quit; some 50 ms.
pub async fn has_sandbox(program: &Path) -> bool {
    let mut command = Command::new(program);
    command.args(["-machine", "none", "-nodefaults", "-no-user-config", "-display", "none"]);
    command.args(["-sandbox", SANDBOX, "-monitor", "stdio"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let Ok(mut child) = command.spawn() else { return false };
    if let Some(mut monitor) = child.stdin.take() {
        // A QEMU that refused the option is gone already.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut monitor, b"quit\n").await;
    }
    let ended = tokio::time::timeout(limits().program, child.wait()).await;
    matches!(ended, Ok(Ok(status)) if status.success())
}

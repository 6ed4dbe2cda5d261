//! The user and the group that QEMU runs as. It never runs as root.

use nix::unistd::{Gid, Uid, User};

use crate::{Error, Result};

/// The user and the group that QEMU runs as.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// The user and the group to change to. `None`: QEMU runs as the harness does.
    drop_to: Option<(Uid, Gid)>,
}

impl Identity {
    /// Chooses the caller's own user, or `nobody` if the caller is root.
    pub fn choose() -> Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self { drop_to: None });
        }
        let nobody = User::from_name("nobody").ok().flatten();
        let nobody = nobody.ok_or_else(|| {
            Error::infrastructure("there is no user `nobody` to run QEMU as").help("run as an ordinary user")
        })?;
        Ok(Self { drop_to: Some((nobody.uid, nobody.gid)) })
    }

    /// Makes `command` run as this identity. Supplementary groups are dropped too (std's
    /// `CommandExt::uid`).
    pub(super) fn apply(self, command: &mut tokio::process::Command) {
        if let Some((uid, gid)) = self.drop_to {
            command.gid(gid.as_raw()).uid(uid.as_raw());
        }
    }
}

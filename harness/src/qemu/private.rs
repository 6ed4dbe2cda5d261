//! Where sockets live and as whom QEMU runs: a folder that nobody else can open, and never root.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, chown};

use crate::host::Accelerator;
use crate::{Error, Result};

/// As whom QEMU runs.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// None: as whoever runs the harness.
    drop_to: Option<(Uid, Gid)>,
}

impl Identity {
    /// The caller's own, or `nobody` where that is root. With KVM the group is the one of `/dev/kvm`.
    pub fn choose(accelerator: Accelerator) -> Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self { drop_to: None });
        }
        let nobody = User::from_name("nobody").ok().flatten();
        let nobody = nobody.ok_or_else(|| {
            Error::infrastructure("there is no user `nobody` to run QEMU as").mend("run as an ordinary user")
        })?;
        let gid = match accelerator {
            Accelerator::Tcg => nobody.gid,
            Accelerator::Kvm => {
                use std::os::unix::fs::MetadataExt;
                Gid::from_raw(fs_err::metadata("/dev/kvm")?.gid())
            }
        };
        Ok(Self { drop_to: Some((nobody.uid, gid)) })
    }

    /// Makes `command` run as this identity. Supplementary groups go too (std's `CommandExt::uid`).
    pub(super) fn apply(self, command: &mut tokio::process::Command) {
        if let Some((uid, gid)) = self.drop_to {
            command.gid(gid.as_raw()).uid(uid.as_raw());
        }
    }

    fn own(self, path: &Path) -> Result<()> {
        if let Some((uid, gid)) = self.drop_to {
            chown(path, Some(uid), Some(gid)).map_err(|error| {
                Error::infrastructure(format!("cannot hand {} to QEMU's user: {error}", path.display()))
            })?;
        }
        Ok(())
    }
}

/// A folder of mode 0700, removed when dropped, that QEMU's identity owns.
#[derive(Debug)]
pub struct PrivateFolder {
    folder: tempfile::TempDir,
    identity: Identity,
}

impl PrivateFolder {
    /// Makes one below `$TMPDIR` or `/tmp`. A socket's path has at most 107 bytes (unix(7)), so it is kept short.
    pub fn create(identity: Identity) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("hotplug-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()?;
        identity.own(folder.path())?;
        Ok(Self { folder, identity })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Copies a file that QEMU must read into it: the cache may lie where only root can go.
    pub fn take_in(&self, from: &Path, name: &str) -> Result<PathBuf> {
        let to = self.path().join(name);
        fs_err::copy(from, &to)?;
        self.identity.own(&to)?;
        Ok(to)
    }

    /// Writes a file that QEMU must read.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let to = self.path().join(name);
        fs_err::write(&to, bytes)?;
        self.identity.own(&to)?;
        Ok(to)
    }

    /// Makes a sub-folder that QEMU's identity owns.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let to = self.path().join(name);
        fs_err::create_dir(&to)?;
        self.identity.own(&to)?;
        Ok(to)
    }

    /// Lets QEMU's identity connect to a socket in it.
    pub(super) fn share(&self, socket: &Path) -> Result<()> {
        self.identity.own(socket)
    }

    /// As whom QEMU runs.
    pub fn identity(&self) -> Identity {
        self.identity
    }
}

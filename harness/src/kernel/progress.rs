//! The events of a build. Nothing in this module prints.

use std::path::PathBuf;

use hotplug_side::Side;

/// One step of a build.
#[derive(Debug, Clone, PartialEq)]
pub enum BuildEvent {
    /// This run waits because another run builds in the same tree.
    Waiting {
        /// The tree's folder.
        tree: PathBuf,
    },
    /// A tarball is unpacked.
    Unpacking {
        /// The tarball.
        from: PathBuf,
    },
    /// The harness's copy of the source is updated from a folder or a revision.
    Syncing {
        /// The user's name for the source.
        from: String,
    },
    /// The patches are applied.
    Patching {
        /// The number of patches.
        patches: usize,
    },
    /// Objects of the nearest state of the source are copied, so that each state keeps its own.
    CopyingObjects,
    /// The kernel is configured: `make tinyconfig`, the fragments, `make olddefconfig`.
    Configuring,
    /// Files are compiled.
    Compiling {
        /// The number of files compiled so far.
        done: u32,
        /// The expected total. `None` for an incremental build, whose total is not known.
        expected: Option<u32>,
    },
    /// vmlinux is linked.
    Linking,
    /// The kernel is built and in the cache.
    Finished {
        /// The duration of the build, in seconds.
        seconds: f64,
    },
    /// The kernel was already in the cache.
    Cached,
}

/// Receives the steps of a build.
pub trait BuildListener: Send + Sync {
    /// Called for each step, on the thread that builds. Implementations should return at once.
    fn event(&self, which: Side, event: BuildEvent);
}

impl<F: Fn(Side, BuildEvent) + Send + Sync> BuildListener for F {
    fn event(&self, which: Side, event: BuildEvent) {
        self(which, event);
    }
}

/// A listener that ignores all events.
#[derive(Debug, Clone, Copy)]
pub struct IgnoreBuild;

impl BuildListener for IgnoreBuild {
    fn event(&self, _: Side, _: BuildEvent) {}
}

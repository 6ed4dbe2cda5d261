//! What a build tells while it runs. Nothing in this module prints.

use std::path::PathBuf;

use hotplug_side::Side;

/// One step of a build.
#[derive(Debug, Clone, PartialEq)]
pub enum BuildEvent {
    /// Another run builds in the same tree; this one waits for it.
    Waiting {
        /// The tree's folder.
        tree: PathBuf,
    },
    /// A tarball is unpacked.
    Unpacking {
        /// The tarball.
        from: PathBuf,
    },
    /// A folder or revision is brought into our copy.
    Syncing {
        /// What it comes from.
        from: String,
    },
    /// The patches are put on.
    Patching {
        /// How many.
        patches: usize,
    },
    /// Objects of the nearest state of the source are copied, so that each keeps its own.
    CopyingObjects,
    /// `make tinyconfig`, the fragments, `make olddefconfig`.
    Configuring,
    /// Files compiled so far.
    Compiling {
        /// Files compiled so far.
        done: u32,
        /// How many it will be; for an incremental build nobody knows.
        expected: Option<u32>,
    },
    /// vmlinux is linked.
    Linking,
    /// The kernel is in the cache.
    Finished {
        /// Time it took, in seconds.
        seconds: f64,
    },
    /// The kernel was in the cache already.
    Cached,
}

/// Who wants to know of the steps.
pub trait Events: Send + Sync {
    /// Called for each step, from the thread that builds; should return at once.
    fn event(&self, which: Side, event: BuildEvent);
}

impl<F: Fn(Side, BuildEvent) + Send + Sync> Events for F {
    fn event(&self, which: Side, event: BuildEvent) {
        self(which, event);
    }
}

/// Nobody wants to know.
#[derive(Debug, Clone, Copy)]
pub struct Quiet;

impl Events for Quiet {
    fn event(&self, _: Side, _: BuildEvent) {}
}

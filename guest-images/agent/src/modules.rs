//! Loads the modules of a packaged kernel, which the host puts into the initramfs.

use std::fs::File;
use std::io;
use std::path::Path;

use hotplug_protocol::{MODULE_LIST, MODULES};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

/// Loads the modules, if there are any. A module that cannot be loaded is named on the console: the
/// guest may not need it, and without the channels to the host there is no other place.
pub(crate) fn load() {
    let list = match std::fs::read_to_string(Path::new(MODULES).join(MODULE_LIST)) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return eprintln!("hotplug agent: cannot read the list of modules: {error}"),
    };
    for name in list.lines() {
        let loaded = File::open(Path::new(MODULES).join(name)).and_then(|file| {
            match finit_module(&file, c"", ModuleInitFlags::empty()) {
                Ok(()) | Err(Errno::EEXIST) => Ok(()),
                Err(errno) => Err(errno.into()),
            }
        });
        if let Err(error) = loaded {
            eprintln!("hotplug agent: cannot load the module {name}: {error}");
        }
    }
}

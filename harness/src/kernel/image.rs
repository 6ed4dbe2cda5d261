//! The release of a kernel image.

use std::io::Read;
use std::path::Path;

use crate::arch::GUEST;
use crate::{Error, Result};

/// The release (`uname -r`) of the bzImage in `file`, or "unknown" if its header has no version
/// string.
pub(crate) fn release(file: &Path) -> Result<String> {
    let mut setup = Vec::new();
    let open = fs_err::File::open(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::user(format!("no such kernel image: {}", file.display()))
            .help(format!("give the path of a {}, as make leaves it in {}", GUEST.image, GUEST.image_path)),
        _ => error.into(),
    })?;
    if open.metadata()?.is_dir() {
        return Err(Error::user(format!("{} is a folder, not a kernel image", file.display())));
    }
    open.take(GUEST.banner_within).read_to_end(&mut setup)?;
    let Some(banner) = (GUEST.banner)(&setup) else {
        let kind = if setup.starts_with(b"\x7fELF") { "an ELF file" } else { "not bootable" };
        return Err(Error::user(format!(
            "{} is not an {} kernel image: it is {kind} and has no boot header",
            file.display(),
            GUEST.kernel
        ))
        .help(format!("give a {} ({}), not vmlinux and not an initramfs", GUEST.image, GUEST.image_path)));
    };
    Ok(banner.split_whitespace().next().unwrap_or("unknown").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_which_file_is_no_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vmlinux");
        fs_err::write(&file, b"\x7fELF and so on").unwrap();
        let error = release(&file).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(
            error.to_string().contains("vmlinux is not an x86 kernel image: it is an ELF file"),
            "{error}"
        );
        assert_eq!(release(&folder.path().join("none")).unwrap_err().exit_status(), 2);
    }
}

//! The release of a kernel image.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::arch::GUEST;
use crate::{Error, Result};

/// The release (`uname -r`) of the bzImage in `file`, or "unknown" if its header has no version
/// string.
pub(crate) fn release(file: &Path) -> Result<String> {
    let banner = banner(file)?;
    Ok(banner.split_whitespace().next().unwrap_or("unknown").to_owned())
}

/// The vmlinux that was linked into `image`, if it is beside it or where make leaves it: in the top
/// folder of the objects.
pub(super) fn vmlinux_beside(image: &Path) -> Result<Option<PathBuf>> {
    let image = fs_err::canonicalize(image)?;
    let folder = image.parent().unwrap_or(Path::new("/"));
    let up = Path::new(GUEST.image_path).components().count() - 1;
    let top = image.ends_with(GUEST.image_path).then(|| folder.ancestors().nth(up)).flatten();
    for place in [Some(folder), top].into_iter().flatten() {
        let file = place.join("vmlinux");
        if file.is_file() && is_of(&file, &image)? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// Whether a vmlinux has the version of an image: the release, and the time of the build
/// (init/version-timestamp.c `linux_banner`).
pub(super) fn is_of(vmlinux: &Path, image: &Path) -> Result<bool> {
    let banner = banner(image)?;
    let Some((release, build)) = banner.split_once(' ').zip(banner.split_once(" #")).map(|(a, b)| (a.0, b.1))
    else {
        return Ok(false);
    };
    let bytes = fs_err::read(vmlinux)?;
    let has = |text: &str| memchr::memmem::find(&bytes, text.as_bytes()).is_some();
    Ok(bytes.starts_with(b"\x7fELF")
        && has(&format!("Linux version {release} "))
        && has(&format!("#{build}")))
}

/// The version string of the bzImage in `file`, such as `6.1.192 (user@host) #1 SMP ...`. It may be
/// empty.
fn banner(file: &Path) -> Result<String> {
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
    Ok(banner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vmlinux_of_an_image_is_found_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let top = fs_err::canonicalize(folder.path()).unwrap();
        let image = top.join(GUEST.image_path);
        fs_err::create_dir_all(image.parent().unwrap()).unwrap();
        // Documentation/arch/x86/boot.rst, THE REAL-MODE KERNEL HEADER.
        let mut setup = vec![0_u8; 0x400];
        setup[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        setup[0x202..0x206].copy_from_slice(b"HdrS");
        setup[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        let version = b"6.1.7 (a@b) #3 SMP Thu\0";
        setup[0x300..0x300 + version.len()].copy_from_slice(version);
        fs_err::write(&image, setup).unwrap();
        assert_eq!(release(&image).unwrap(), "6.1.7");
        assert_eq!(vmlinux_beside(&image).unwrap(), None);
        let vmlinux = top.join("vmlinux");
        fs_err::write(&vmlinux, b"\x7fELF..Linux version 6.1.7 (a@b) (gcc) #3 SMP Thu\n").unwrap();
        assert_eq!(vmlinux_beside(&image).unwrap(), Some(vmlinux.clone()));
        // Another build's.
        fs_err::write(&vmlinux, b"\x7fELF..Linux version 6.1.7 (a@b) (gcc) #4 SMP Thu\n").unwrap();
        assert_eq!(vmlinux_beside(&image).unwrap(), None);
    }

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

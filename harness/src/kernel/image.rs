//! The architecture and the release of a kernel image.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::arch::Architecture;
use crate::{Error, Result};

/// The architecture of the image in `file` and its release (`uname -r`), or "unknown" if it has no
/// version string.
pub(crate) fn identify(file: &Path) -> Result<(Architecture, String)> {
    let (arch, banner) = banner(file)?;
    Ok((arch, banner.split_whitespace().next().unwrap_or("unknown").to_owned()))
}

/// The vmlinux that was linked into `image`, if it is beside it or where make leaves it: in the top
/// folder of the objects.
pub(super) fn vmlinux_beside(image: &Path) -> Result<Option<PathBuf>> {
    let image = fs_err::canonicalize(image)?;
    let folder = image.parent().unwrap_or(Path::new("/"));
    let (arch, _) = banner(&image)?;
    let path = arch.table().image_path;
    let up = Path::new(path).components().count() - 1;
    let top = image.ends_with(path).then(|| folder.ancestors().nth(up)).flatten();
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
    let (_, banner) = banner(image)?;
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

/// The version string of the image in `file`, such as `6.1.192 (user@host) #1 SMP ...`. It may be
/// empty.
fn banner(file: &Path) -> Result<(Architecture, String)> {
    let usual = Architecture::default().table();
    let mut open = fs_err::File::open(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::user(format!("no such kernel image: {}", file.display()))
            .help(format!("give the path of a {}, as make leaves it in {}", usual.image, usual.image_path)),
        _ => error.into(),
    })?;
    if open.metadata()?.is_dir() {
        return Err(Error::user(format!("{} is a folder, not a kernel image", file.display())));
    }
    let mut bytes = Vec::new();
    for arch in Architecture::ALL {
        let further = arch.table().banner_within.saturating_sub(bytes.len() as u64);
        open.by_ref().take(further).read_to_end(&mut bytes)?;
        if let Some(banner) = (arch.table().banner)(&bytes) {
            return Ok((arch, banner));
        }
    }
    let kind = if bytes.starts_with(b"\x7fELF") { "an ELF file" } else { "not bootable" };
    Err(Error::user(format!(
        "{} is not an {} kernel image: it is {kind} and has no boot header",
        file.display(),
        usual.kernel
    ))
    .help(format!("give a {} ({}), not vmlinux and not an initramfs", usual.image, usual.image_path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vmlinux_of_an_image_is_found_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let top = fs_err::canonicalize(folder.path()).unwrap();
        let image = top.join(Architecture::X86.table().image_path);
        fs_err::create_dir_all(image.parent().unwrap()).unwrap();
        // Documentation/arch/x86/boot.rst, THE REAL-MODE KERNEL HEADER.
        let mut setup = vec![0_u8; 0x400];
        setup[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        setup[0x202..0x206].copy_from_slice(b"HdrS");
        setup[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        let version = b"6.1.7 (a@b) #3 SMP Thu\0";
        setup[0x300..0x300 + version.len()].copy_from_slice(version);
        fs_err::write(&image, setup).unwrap();
        assert_eq!(identify(&image).unwrap(), (Architecture::X86, "6.1.7".to_owned()));
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
        let error = identify(&file).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(
            error.to_string().contains("vmlinux is not an x86 kernel image: it is an ELF file"),
            "{error}"
        );
        assert_eq!(identify(&folder.path().join("none")).unwrap_err().exit_status(), 2);
    }
}

//! The header of an x86 kernel image (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel
//! Header").

use std::io::Read;
use std::path::Path;

use crate::{Error, Result};

/// Offset of the boot flag 0xAA55, little endian.
const BOOT_FLAG: usize = 0x1FE;
/// Offset of the magic `HdrS`.
const MAGIC: usize = 0x202;
/// Offset of `kernel_version`, which holds the version string's offset less 0x200.
const KERNEL_VERSION: usize = 0x20E;
/// Upper limit of the setup code with the version string, because `setup_sects` is one byte.
const LONGEST_SETUP: u64 = 256 * 512;

/// The banner of a bzImage, such as `6.1.192 (user@host) #1 ...`.
///
/// `setup` is the start of the file. Returns `None` if it is not a kernel.
fn banner(setup: &[u8]) -> Option<String> {
    if setup.get(BOOT_FLAG..BOOT_FLAG + 2)? != [0x55, 0xAA] || setup.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let low = *setup.get(KERNEL_VERSION)?;
    let high = *setup.get(KERNEL_VERSION + 1)?;
    let at = usize::from(u16::from_le_bytes([low, high]));
    if at == 0 {
        return Some(String::new());
    }
    let text = setup.get(at + 0x200..)?.split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// The release (`uname -r`) of the bzImage in `file`, or "unknown" if its header has no version
/// string.
pub(crate) fn release(file: &Path) -> Result<String> {
    let mut setup = Vec::new();
    let open = fs_err::File::open(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::user(format!("no such kernel image: {}", file.display()))
            .help("give the path of a bzImage, as make leaves it in arch/x86/boot/bzImage"),
        _ => error.into(),
    })?;
    if open.metadata()?.is_dir() {
        return Err(Error::user(format!("{} is a folder, not a kernel image", file.display())));
    }
    open.take(LONGEST_SETUP).read_to_end(&mut setup)?;
    let Some(banner) = banner(&setup) else {
        let kind = if setup.starts_with(b"\x7fELF") { "an ELF file" } else { "not bootable" };
        return Err(Error::user(format!(
            "{} is not an x86 kernel image: it is {kind} and has no boot header",
            file.display()
        ))
        .help("give a bzImage (arch/x86/boot/bzImage), not vmlinux and not an initramfs"));
    };
    Ok(banner.split_whitespace().next().unwrap_or("unknown").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(version: &str) -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        bytes[BOOT_FLAG..BOOT_FLAG + 2].copy_from_slice(&[0x55, 0xAA]);
        bytes[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        bytes[KERNEL_VERSION..KERNEL_VERSION + 2].copy_from_slice(&0x100_u16.to_le_bytes());
        bytes[0x300..0x300 + version.len()].copy_from_slice(version.as_bytes());
        bytes
    }

    #[test]
    fn reads_the_version() {
        assert_eq!(banner(&image("6.1.192 (a@b) #1 SMP")).unwrap(), "6.1.192 (a@b) #1 SMP");
    }

    #[test]
    fn refuses_what_is_no_kernel() {
        assert_eq!(banner(b"\x7fELF"), None);
        assert_eq!(banner(&[0; 4096]), None);
        let mut cut = image("6.1");
        cut.truncate(0x2ff);
        assert_eq!(banner(&cut), None);
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

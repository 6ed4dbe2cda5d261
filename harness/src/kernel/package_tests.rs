use super::*;

/// A file with the header of a bzImage of this release (Documentation/arch/x86/boot.rst).
fn image(release: &str) -> Vec<u8> {
    let mut bytes = vec![0; 0x400];
    bytes[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    let banner = format!("{release} (a@b) #1 SMP\0");
    bytes[0x300..0x300 + banner.len()].copy_from_slice(banner.as_bytes());
    bytes
}

const CONFIG: &str = "\
CONFIG_MEMORY_HOTPLUG=y
CONFIG_MEMORY_HOTREMOVE=y
CONFIG_ACPI_HOTPLUG_MEMORY=y
CONFIG_HOTPLUG_CPU=y
CONFIG_VIRTIO_PCI=y
CONFIG_VIRTIO_CONSOLE=y
CONFIG_DEBUG_LIST=y
";

struct Fixture {
    root: tempfile::TempDir,
    cache: Cache,
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path().join("cache")).unwrap();
        let fixture = Self { root, cache };
        fixture.write("boot/vmlinuz-6.1.0-57-amd64", &image("6.1.0-57-amd64"));
        fixture.write("boot/config-6.1.0-57-amd64", CONFIG.as_bytes());
        fixture
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("kernel")
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.folder().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, bytes).unwrap();
    }

    async fn kernel(&self, path: PathBuf) -> Result<Kernel> {
        let package = Package { path, symbols: None };
        package.kernel(&self.cache, &CancellationToken::new()).await
    }

    /// What is said about the folder as it is.
    async fn refusal(&self) -> String {
        let error = self.kernel(self.folder()).await.unwrap_err();
        assert_eq!(error.exit_status(), 2);
        let left = fs_err::read_dir(self.cache.sources()).into_iter().flatten().count();
        assert_eq!(left, 0, "a folder of work is left");
        assert_eq!(fs_err::read_dir(self.cache.kernels()).unwrap().count(), 0, "a kernel is left");
        error.to_string()
    }
}

#[tokio::test]
async fn a_kernel_is_kept_with_what_it_lacks() {
    let fixture = Fixture::new();
    let kernel = fixture.kernel(fixture.folder()).await.unwrap();
    assert_eq!((kernel.release.as_str(), kernel.is_built()), ("6.1.0-57-amd64", false));
    assert_eq!(kernel.lacks(), ["PROVE_LOCKING", "DEBUG_ATOMIC_SLEEP", "DETECT_HUNG_TASK"]);
    assert_eq!((kernel.vmlinux, kernel.modules), (None, None));
    assert!(kernel.config.is_some());
    // Another file makes another kernel.
    let was = kernel.id;
    assert_eq!(fixture.kernel(fixture.folder()).await.unwrap().id, was);
    fixture.write("boot/config-6.1.0-57-amd64", format!("{CONFIG}CONFIG_KSM=y\n").as_bytes());
    let now = fixture.kernel(fixture.folder()).await.unwrap().id;
    assert_ne!(now, was);
    // So does another module. Files that are not used make none.
    fixture.write("boot/initrd.img-6.1.0-57-amd64", b"of another machine");
    assert_eq!(fixture.kernel(fixture.folder()).await.unwrap().id, now);
    fixture.write("lib/modules/6.1.0-57-amd64/kernel/fs/xfs.ko", b"not loaded");
    assert_ne!(fixture.kernel(fixture.folder()).await.unwrap().id, now);
}

#[tokio::test]
async fn what_no_guest_can_use_is_refused() {
    let fixture = Fixture::new();
    fixture.write("lib/modules/6.1.0-50-amd64/modules.order", b"");
    let said = fixture.refusal().await;
    assert!(
        said.contains(
            "modules of another kernel: the image is 6.1.0-57-amd64, its modules are 6.1.0-50-amd64"
        ),
        "{said}"
    );

    let fixture = Fixture::new();
    fixture.write("boot/vmlinuz-6.1.0-50-amd64", &image("6.1.0-50-amd64"));
    assert!(fixture.refusal().await.contains("has several kernels"));

    let fixture = Fixture::new();
    fixture.write("boot/config-6.1.0-57-amd64", CONFIG.replace("CONFIG_MEMORY_HOTPLUG=y\n", "").as_bytes());
    let said = fixture.refusal().await;
    assert!(said.contains("has no CONFIG_MEMORY_HOTPLUG"), "{said}");

    let fixture = Fixture::new();
    fixture.write(
        "boot/config-6.1.0-57-amd64",
        CONFIG.replace("VIRTIO_CONSOLE=y", "VIRTIO_CONSOLE=m").as_bytes(),
    );
    let said = fixture.refusal().await;
    assert!(said.contains("CONFIG_VIRTIO_CONSOLE is not built in, and there is no module"), "{said}");

    let fixture = Fixture::new();
    fixture.write("boot/vmlinuz-6.1.0-57-amd64", b"MZ\0\0 an image for arm64");
    let said = fixture.refusal().await;
    assert!(said.contains("has no x86 kernel: its vmlinuz-6.1.0-57-amd64 is none"), "{said}");

    let fixture = Fixture::new();
    fs_err::remove_file(fixture.folder().join("boot/vmlinuz-6.1.0-57-amd64")).unwrap();
    let said = fixture.refusal().await;
    assert!(said.contains("there is no vmlinuz or bzImage in it"), "{said}");
}

#[tokio::test]
async fn a_file_that_is_no_package_is_named() {
    let fixture = Fixture::new();
    let file = fixture.root.path().join("x.deb");
    let error = fixture.kernel(file.clone()).await.unwrap_err().to_string();
    assert!(error.starts_with("no such package: "), "{error}");
    fs_err::write(&file, "no archive").unwrap();
    let error = fixture.kernel(file).await.unwrap_err().to_string();
    assert!(error.contains("x.deb cannot be unpacked"), "{error}");
}

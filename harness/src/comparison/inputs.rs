//! The files that a run was given, copied into its folder. The record of the run names the copies,
//! so that its commands work after the originals have changed or are gone.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::kernel::patch_files;
use crate::spec::ComparisonSpec;

/// Copies the patches, the config files and the known issues of `spec` into `folder`. Returns the
/// spec with the paths of the copies.
pub(super) fn keep(folder: &Path, mut spec: ComparisonSpec) -> Result<ComparisonSpec> {
    let folder = std::path::absolute(folder)?;
    if let Some(known) = &mut spec.running.known {
        // A continued run reads it from this place.
        *known = copy_known(known, folder.join("known.toml"))?;
    }
    let kernels = &mut spec.kernels;
    for patch in kernels.base_patches.iter_mut().chain(&mut kernels.patches) {
        let to = free_name(&folder.join("patches"), patch)?;
        if patch.is_dir() {
            fs_err::create_dir(&to)?;
            for file in patch_files(patch)? {
                copy(&file, to.join(file.file_name().unwrap_or_default()))?;
            }
            *patch = to;
        } else {
            *patch = copy(patch, to)?;
        }
    }
    for file in &mut kernels.config {
        *file = copy(file, free_name(&folder.join("configs"), file)?)?;
    }
    if let Some(name) = &mut kernels.defconfig {
        // A target of make, such as x86_64_defconfig, is no file.
        let file = PathBuf::from(&*name);
        if file.is_file() {
            *name = copy(&file, free_name(&folder.join("configs"), &file)?)?.display().to_string();
        }
    }
    Ok(spec)
}

/// Copies the file of known issues, without its masks: they are among the patches.
fn copy_known(from: &Path, to: PathBuf) -> Result<PathBuf> {
    let text = fs_err::read_to_string(from)?;
    let mut table: toml::Table = toml::from_str(&text).map_err(crate::Error::infrastructure)?;
    let entries = table.get_mut("known").and_then(toml::Value::as_array_mut).into_iter().flatten();
    let masks = entries.filter_map(|entry| entry.as_table_mut()?.remove("mask")).count();
    if masks == 0 {
        return copy(from, to);
    }
    fs_err::write(&to, toml::to_string(&table).map_err(crate::Error::infrastructure)?)?;
    Ok(to)
}

fn copy(from: &Path, to: PathBuf) -> Result<PathBuf> {
    fs_err::copy(from, &to)?;
    Ok(to)
}

/// A free path in `folder`, because two files may have the same name.
fn free_name(folder: &Path, file: &Path) -> Result<PathBuf> {
    fs_err::create_dir_all(folder)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut path = folder.join(if name.is_empty() { "series" } else { &name });
    let mut number = 2;
    while path.exists() {
        path = folder.join(format!("{number}-{name}"));
        number += 1;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::PairSpec;

    #[test]
    fn the_spec_names_copies_that_exist() {
        let home = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = home.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(&path, name).unwrap();
            path
        };
        let (one, other, config) = (file("a/x.patch"), file("b/x.patch"), file("my.config"));
        file("series/0001-a.patch");
        file("series/README");
        let run = home.path().join("run");
        fs_err::create_dir(&run).unwrap();
        let spec = ComparisonSpec {
            kernels: PairSpec {
                base_patches: vec![one],
                patches: vec![other, home.path().join("series")],
                config: vec![config.clone()],
                defconfig: Some("x86_64_defconfig".into()),
                ..PairSpec::default()
            },
            ..ComparisonSpec::default()
        };
        let kept = keep(&run, spec).unwrap().kernels;
        assert_eq!(kept.base_patches, [run.join("patches/x.patch")]);
        assert_eq!(kept.patches, [run.join("patches/2-x.patch"), run.join("patches/series")]);
        assert_eq!(fs_err::read_to_string(&kept.patches[0]).unwrap(), "b/x.patch");
        assert_eq!(patch_files(&kept.patches[1]).unwrap(), [run.join("patches/series/0001-a.patch")]);
        assert!(!run.join("patches/series/README").exists());
        assert_eq!(
            (kept.config, kept.defconfig.as_deref()),
            (vec![run.join("configs/my.config")], Some("x86_64_defconfig"))
        );
        let whole = PairSpec { defconfig: Some(config.display().to_string()), ..PairSpec::default() };
        let kept = keep(&run, ComparisonSpec { kernels: whole, ..ComparisonSpec::default() }).unwrap();
        assert_eq!(kept.kernels.defconfig.unwrap(), run.join("configs/2-my.config").display().to_string());
    }
}

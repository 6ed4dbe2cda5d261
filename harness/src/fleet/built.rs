//! Kernels that a build stage left in the cache. Shards take them from there, and need neither the
//! source nor a compiler.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::files::{read_json_if_there, write_json};
use crate::kernel::{Cache, Kernel, KernelPair, recall};

/// `built/<number>.json`: identifies the pair of kernels of that number, bit for bit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltPair {
    before: Image,
    after: Image,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Image {
    id: String,
    image_hash: String,
}

impl BuiltPair {
    /// Identifies the kernels of a pair.
    pub fn of(pair: &KernelPair) -> Self {
        let image = |kernel: &Kernel| Image {
            id: kernel.id.as_str().to_owned(),
            image_hash: kernel.image_hash.clone(),
        };
        Self { before: image(&pair.before), after: image(&pair.after) }
    }

    fn file(plan: &Path, number: usize) -> PathBuf {
        plan.join("built").join(format!("{number}.json"))
    }

    /// Records the pair in a plan's folder.
    pub fn write(&self, plan: &Path, number: usize) -> Result<()> {
        fs_err::create_dir_all(plan.join("built"))?;
        write_json(&Self::file(plan, number), self)
    }

    /// The kernels of that number, if they were recorded and the cache has both.
    pub fn recall(plan: &Path, number: usize, cache: &Cache) -> Result<Option<KernelPair>> {
        let Some(noted) = read_json_if_there::<Self>(&Self::file(plan, number))? else { return Ok(None) };
        let image = |image: &Image| recall(cache, &image.id, Path::new(""), &image.image_hash);
        let (Some(before), Some(after)) = (image(&noted.before)?, image(&noted.after)?) else {
            return Ok(None);
        };
        Ok(Some(KernelPair { before, after }))
    }
}

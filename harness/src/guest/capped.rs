//! A file that a guest, or its QEMU, can write to, up to a limit.

use std::path::Path;

use tokio::io::AsyncWriteExt;

/// A guest that prints without end fills this much of a trial's folder and no more, bytes.
const LIMIT: usize = 64 << 20;

/// Appends until the limit, then counts.
#[derive(Debug)]
pub(crate) struct Capped {
    file: fs_err::tokio::File,
    room: usize,
    dropped: usize,
}

impl Capped {
    pub(crate) async fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self::over(fs_err::tokio::File::create(path).await?))
    }

    /// Appends to `file`, which is empty.
    pub(crate) fn over(file: impl Into<fs_err::tokio::File>) -> Self {
        Self { file: file.into(), room: LIMIT, dropped: 0 }
    }

    pub(crate) async fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let taken = bytes.len().min(self.room);
        self.room -= taken;
        self.dropped += bytes.len() - taken;
        self.file.write_all(&bytes[..taken]).await
    }

    /// Whether something was left out.
    pub(crate) fn is_full(&self) -> bool {
        self.dropped > 0
    }

    /// Writes what is buffered, and how much was left out.
    pub(crate) async fn finish(mut self) -> std::io::Result<()> {
        if self.dropped > 0 {
            let note = format!("\nhotplug: {} bytes more were written than are kept\n", self.dropped);
            self.file.write_all(note.as_bytes()).await?;
        }
        self.file.flush().await
    }
}

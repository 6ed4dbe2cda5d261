//! A file with a size limit, for output of a guest or of its QEMU.

use std::path::Path;

use tokio::io::AsyncWriteExt;

/// The limit, in bytes: a guest that prints without end fills this much of a trial's folder.
const LIMIT: usize = 64 << 20;

/// Appends to a file up to the limit, and counts the bytes beyond it.
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

    /// Appends to `file`, which must be empty.
    pub(crate) fn over(file: impl Into<fs_err::tokio::File>) -> Self {
        Self { file: file.into(), room: LIMIT, dropped: 0 }
    }

    pub(crate) async fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let taken = bytes.len().min(self.room);
        self.room -= taken;
        self.dropped += bytes.len() - taken;
        self.file.write_all(&bytes[..taken]).await
    }

    /// Waits until everything that was appended is in the file.
    pub(crate) async fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush().await
    }

    /// Whether bytes were dropped.
    pub(crate) fn is_full(&self) -> bool {
        self.dropped > 0
    }

    /// Flushes the file. If bytes were dropped, first appends a note with their number.
    pub(crate) async fn finish(mut self) -> std::io::Result<()> {
        if self.dropped > 0 {
            let note =
                format!("\nhotplug: the limit was reached, {} more bytes were dropped\n", self.dropped);
            self.file.write_all(note.as_bytes()).await?;
        }
        self.file.flush().await
    }
}

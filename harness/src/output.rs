//! The output of one channel of a guest: a file for each trial that the guest takes.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard};

use crate::capped::Capped;

/// The most bytes that are kept between two trials. An idle guest prints next to nothing.
const BETWEEN: usize = 1 << 20;

/// The output of a channel. The task that reads the channel and the handle that begins the next
/// trial share it.
#[derive(Debug, Clone)]
pub(crate) struct Output(Arc<Mutex<Place>>);

/// Where the output goes.
#[derive(Debug)]
pub(crate) enum Place {
    /// To the file of the current trial.
    File(Capped),
    /// To memory: the last trial has ended, and the next one has not begun.
    Between(Vec<u8>),
}

impl Output {
    pub(crate) async fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Place::File(Capped::create(path).await?)))))
    }

    /// Locks the output, so that no other trial begins meanwhile.
    pub(crate) async fn lock(&self) -> MutexGuard<'_, Place> {
        self.0.lock().await
    }

    pub(crate) async fn append(&self, bytes: &[u8]) -> std::io::Result<()> {
        self.lock().await.append(bytes).await
    }

    /// Ends the file of the current trial. What arrives later belongs to the next one.
    pub(crate) async fn pause(&self) -> std::io::Result<()> {
        self.lock().await.pause().await
    }

    /// Begins the file of the next trial.
    pub(crate) async fn resume(&self, path: &Path) -> std::io::Result<()> {
        let mut place = self.lock().await;
        let mut file = Capped::create(path).await?;
        if let Place::Between(bytes) = &*place {
            file.append(bytes).await?;
        }
        *place = Place::File(file);
        Ok(())
    }

    /// Waits until all output so far is in the file of the current trial.
    pub(crate) async fn flush(&self) -> std::io::Result<()> {
        match &mut *self.lock().await {
            Place::File(file) => file.flush().await,
            Place::Between(_) => Ok(()),
        }
    }

    /// Completes the file of the current trial. The channel has ended.
    pub(crate) async fn finish(&self) -> std::io::Result<()> {
        self.pause().await
    }
}

impl Place {
    pub(crate) async fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::File(file) => file.append(bytes).await,
            Self::Between(kept) if kept.len() + bytes.len() <= BETWEEN => {
                kept.extend_from_slice(bytes);
                Ok(())
            }
            Self::Between(_) => Err(std::io::Error::other("an idle guest prints without end")),
        }
    }

    /// Whether bytes of the current trial were dropped.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::File(file) if file.is_full())
    }

    pub(crate) async fn pause(&mut self) -> std::io::Result<()> {
        match std::mem::replace(self, Self::Between(Vec::new())) {
            Self::File(file) => file.finish().await,
            between @ Self::Between(_) => {
                *self = between;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_arrives_between_two_trials_belongs_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let output = Output::create(&path("first")).await.unwrap();
        output.append(b"1").await.unwrap();
        output.pause().await.unwrap();
        output.append(b"2").await.unwrap();
        output.pause().await.unwrap();
        output.append(b"3").await.unwrap();
        output.resume(&path("second")).await.unwrap();
        output.append(b"4").await.unwrap();
        output.finish().await.unwrap();
        assert_eq!(fs_err::read(path("first")).unwrap(), b"1");
        assert_eq!(fs_err::read(path("second")).unwrap(), b"234");
    }

    #[tokio::test]
    async fn an_idle_guest_does_not_fill_the_hosts_memory() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::create(&dir.path().join("first")).await.unwrap();
        output.pause().await.unwrap();
        output.append(&vec![0; BETWEEN]).await.unwrap();
        output.append(&[0]).await.unwrap_err();
    }
}

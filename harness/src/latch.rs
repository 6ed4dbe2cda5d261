//! Something that happens once: the first value is kept, whoever waits learns it, and so does who asks later.

use tokio::sync::watch;

/// Set once, and then for good.
#[derive(Debug)]
pub struct Latch<T>(watch::Sender<Option<T>>);

impl<T> Default for Latch<T> {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl<T: Clone> Latch<T> {
    /// Sets it, unless it was set before.
    pub fn set(&self, value: T) {
        self.0.send_if_modified(|first| {
            let new = first.is_none();
            first.get_or_insert(value);
            new
        });
    }

    /// Its value, if it was set.
    pub fn get(&self) -> Option<T> {
        self.0.borrow().clone()
    }

    /// Whether it was set.
    pub fn is_set(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits until it is set. Safe to cancel.
    pub async fn wait(&self) -> T {
        let mut value = self.0.subscribe();
        match value.wait_for(Option::is_some).await.map(|value| value.clone()) {
            Ok(Some(value)) => value,
            // The sender is ours, so the wait cannot fail.
            _ => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_value_is_kept_and_told_whenever_it_is_asked_for() {
        let latch = Latch::default();
        assert_eq!((latch.get(), latch.is_set()), (None, false));
        let (waited, ()) = tokio::join!(latch.wait(), async {
            latch.set(1);
            latch.set(2);
        });
        assert_eq!((waited, latch.wait().await, latch.get()), (1, 1, Some(1)));
    }
}

//! Maps values to positions in a drawing.

/// The range of some values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Scale {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let all = Self { least: f64::INFINITY, greatest: 0.0 };
        values.fold(all, |all, value| Self { least: all.least.min(value), greatest: all.greatest.max(value) })
    }

    /// The position of a value in the range, from 0 to 1. If all values are equal, it is 0.
    pub(crate) fn part(self, value: f64) -> f64 {
        (value - self.least) / (self.greatest - self.least).max(self.greatest * 1e-6).max(1.0)
    }
}

/// Formats pixels with one decimal.
pub(crate) fn px(value: f64) -> String {
    format!("{value:.1}")
}

//! Drawings that screens and pages share: lock orders, and rows of time on one axis.

pub(crate) mod axis;
mod dot;
mod lock_order;
pub(crate) mod scale;
mod svg;

pub use dot::dot;
pub use lock_order::{Arrow, DependencyChange, Drawing};
pub use svg::svg;

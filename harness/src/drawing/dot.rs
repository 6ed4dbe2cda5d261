//! The drawing as text for Graphviz.

use std::fmt::Write;

use super::{DependencyChange, Drawing};

/// The drawing in the DOT language.
pub fn dot(drawing: &Drawing) -> String {
    let mut out = String::from("digraph \"lock order\" {\n");
    let _ = writeln!(out, "    label={};", quoted(&drawing.title));
    out += "    rankdir=LR;\n    node [shape=box, fontname=monospace];\n";
    for (place, lock) in drawing.locks.iter().enumerate() {
        let _ = writeln!(out, "    n{place} [label={}];", quoted(lock));
    }
    for arrow in &drawing.arrows {
        let style = match arrow.change {
            DependencyChange::Gone => "color=red, style=dashed",
            DependencyChange::New => "color=darkgreen, style=bold",
            DependencyChange::Common => "color=gray",
            DependencyChange::Foreseen => "color=purple, style=dotted",
        };
        let (from, to, word) = (arrow.from, arrow.to, arrow.change.word());
        let _ =
            writeln!(out, "    n{from} -> n{to} [{style}, label={word}, tooltip={}];", quoted(&arrow.note));
    }
    out + "}\n"
}

/// Quotes a string for the DOT language.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

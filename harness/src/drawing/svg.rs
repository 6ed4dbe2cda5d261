//! The drawing as a self-contained SVG. It has a light and a dark style, and its arrows differ
//! without colours too.

use std::fmt::Write;

use layout::core::base::Orientation;
use layout::core::color::Color;
use layout::core::format::{ClipHandle, RenderBackend};
use layout::core::geometry::{Point, Position};
use layout::core::style::{LineStyleKind, StyleAttr};
use layout::std_shapes::shapes::{Arrow as Line, Element, LineEndKind, ShapeKind};
use layout::topo::layout::VisualGraph;

use super::{DependencyChange, Drawing};

/// The font size, in pixels. In a monospace font each letter is 0.6 of that wide.
const FONT: usize = 13;
/// Margin around the drawing, in pixels.
const MARGIN: f64 = 16.0;
/// Height of title and legend, in pixels.
const HEAD: f64 = 58.0;
/// Minimum width, for the legend, in pixels.
const WIDTH: f64 = 460.0;

/// Space around a box, as the sum of both sides, in pixels.
const APART: Point = Point { x: 60.0, y: 14.0 };

const STYLE: &str = "
    svg { background: #fff; color: #1b1f24; font: 13px monospace; }
    text { fill: currentColor; }
    .title { font-weight: bold; }
    .lock { fill: #f4f6f8; stroke: #8a939c; }
    .arrow path, .key { fill: none; stroke-width: 1.6; }
    .gone { stroke: #c62828; stroke-dasharray: 6 4; }
    .new { stroke: #1b7f37; }
    .new path, .key.new { stroke-width: 3; }
    .common { stroke: #8a939c; }
    .foreseen { stroke: #7b3fb5; stroke-dasharray: 2 4; }
    .tip.gone { fill: #c62828; stroke: none; } .tip.new { fill: #1b7f37; stroke: none; }
    .tip.common { fill: #8a939c; stroke: none; } .tip.foreseen { fill: #7b3fb5; stroke: none; }
    @media (prefers-color-scheme: dark) {
      svg { background: #14181d; color: #e4e8ec; }
      .lock { fill: #222932; stroke: #79838d; }
      .gone { stroke: #ff8a80; } .new { stroke: #69d98b; } .foreseen { stroke: #cfa3ff; }
      .tip.gone { fill: #ff8a80; } .tip.new { fill: #69d98b; } .tip.foreseen { fill: #cfa3ff; }
    }
";

/// The drawing. The tooltip of an arrow has the number of trials that showed it.
pub fn svg(drawing: &Drawing) -> String {
    let mut canvas =
        Canvas { drawing, boxes: String::new(), arrows: String::new(), width: WIDTH, height: 0.0 };
    if drawing.locks.is_empty() {
        let _ = writeln!(canvas.boxes, "<text x=\"0\" y=\"14\">nothing to draw</text>");
        canvas.height = 20.0;
    } else {
        graph(drawing).do_it(false, false, false, &mut canvas);
    }
    let (width, height) = (canvas.width + 2.0 * MARGIN, canvas.height + HEAD + 2.0 * MARGIN);
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-label=\"{}\" \
         width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\">",
        escaped(&drawing.title)
    );
    let _ = writeln!(out, "<style>{STYLE}</style>\n<defs>");
    for change in DependencyChange::ALL {
        let word = change.word();
        for (end, points, at) in [("end", "0 0, 9 4, 0 8", 9), ("start", "9 0, 9 8, 0 4", 0)] {
            let _ = writeln!(
                out,
                "<marker id=\"{word}-{end}\" markerUnits=\"userSpaceOnUse\" markerWidth=\"9\" markerHeight=\"8\" \
                 refX=\"{at}\" refY=\"4\" orient=\"auto\"><polygon class=\"tip {word}\" points=\"{points}\"/></marker>"
            );
        }
    }
    let _ = writeln!(out, "</defs>\n<g transform=\"translate({MARGIN} {MARGIN})\">");
    let _ = writeln!(out, "<text class=\"title\" x=\"0\" y=\"12\">{}</text>", escaped(&drawing.title));
    let used = DependencyChange::ALL
        .into_iter()
        .filter(|change| drawing.arrows.iter().any(|arrow| arrow.change == *change));
    for (change, x) in used.zip([0, 110, 220, 330]) {
        let word = change.word();
        let _ = writeln!(
            out,
            "<path class=\"key {word}\" d=\"M {x} 32 h 34\" marker-end=\"url(#{word}-end)\"/>\
             <text x=\"{}\" y=\"36\">{word}</text>",
            x + 42
        );
    }
    let Canvas { boxes, arrows, .. } = canvas;
    let _ = writeln!(out, "<g transform=\"translate(0 {HEAD})\">\n{arrows}{boxes}</g>\n</g>\n</svg>");
    out
}

fn graph(drawing: &Drawing) -> VisualGraph {
    let look = StyleAttr::new(Color::fast("black"), 1, None, 4, FONT);
    let mut graph = VisualGraph::new(Orientation::LeftToRight);
    let handles: Vec<_> = drawing
        .locks
        .iter()
        .map(|name| {
            let letters = u32::try_from(name.chars().count()).unwrap_or(u32::MAX);
            let size = Point::new(f64::from(letters) * 7.9 + 20.0, 28.0);
            let shape = ShapeKind::new_box(name);
            let mut element = Element::create(shape, look.clone(), Orientation::LeftToRight, size);
            element.pos = Position::new(Point::zero(), size, Point::zero(), APART);
            graph.add_node(element)
        })
        .collect();
    for (place, arrow) in drawing.arrows.iter().enumerate() {
        let line = Line::with_properties(
            LineEndKind::None,
            LineEndKind::Arrow,
            LineStyleKind::Normal,
            "",
            &look,
            place.to_string(),
            &None,
            &None,
        );
        graph.add_edge(line, handles[arrow.from], handles[arrow.to]);
    }
    graph
}

/// The target that the layout draws to.
struct Canvas<'a> {
    drawing: &'a Drawing,
    boxes: String,
    /// The arrows are behind the boxes, so that an arrow that passes a box hides no name.
    arrows: String,
    width: f64,
    height: f64,
}

impl Canvas<'_> {
    fn grow(&mut self, to: Point) {
        self.width = self.width.max(to.x);
        self.height = self.height.max(to.y);
    }
}

impl RenderBackend for Canvas<'_> {
    fn draw_rect(
        &mut self,
        at: Point,
        size: Point,
        look: &StyleAttr,
        _: Option<String>,
        _: Option<ClipHandle>,
    ) {
        self.grow(at.add(size));
        let _ = writeln!(
            self.boxes,
            "<rect class=\"lock\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"{}\"/>",
            at.x, at.y, size.x, size.y, look.rounded
        );
    }

    fn draw_text(&mut self, at: Point, text: &str, _: &StyleAttr) {
        if !text.is_empty() {
            let _ = writeln!(
                self.boxes,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" dominant-baseline=\"central\">{}</text>",
                at.x,
                at.y,
                escaped(text)
            );
        }
    }

    /// `path` begins with a point and its outgoing control point. Further points follow, each
    /// preceded by its incoming control point.
    fn draw_arrow(
        &mut self,
        path: &[(Point, Point)],
        _: bool,
        (at_start, at_end): (bool, bool),
        _: &StyleAttr,
        place: Option<String>,
        _: &str,
    ) {
        let arrow = place.and_then(|place| self.drawing.arrows.get(place.parse::<usize>().ok()?));
        let (Some(arrow), [first, second, rest @ ..]) = (arrow, path) else { return };
        let pair = |(a, b): &(Point, Point)| format!("{:.1} {:.1}, {:.1} {:.1}", a.x, a.y, b.x, b.y);
        let mut d = format!(
            "M {:.1} {:.1} C {:.1} {:.1}, {}",
            first.0.x,
            first.0.y,
            first.1.x,
            first.1.y,
            pair(second)
        );
        for part in rest {
            let _ = write!(d, " S {}", pair(part));
        }
        let word = arrow.change.word();
        let tip = |is: bool, end: &str| {
            if is { format!(" marker-{end}=\"url(#{word}-{end})\"") } else { String::new() }
        };
        let (from, to) = (&self.drawing.locks[arrow.from], &self.drawing.locks[arrow.to]);
        let title = format!("{word}: {from} -> {to}, {}", arrow.note);
        let _ = writeln!(
            self.arrows,
            "<g class=\"arrow {word}\"><title>{}</title><path d=\"{d}\"{}{}/></g>",
            escaped(&title),
            tip(at_start, "start"),
            tip(at_end, "end")
        );
        for (a, b) in path {
            self.grow(*a);
            self.grow(*b);
        }
    }

    // These methods belong to shapes that are not used here.
    fn draw_line(&mut self, _: Point, _: Point, _: &StyleAttr, _: Option<String>) {}
    fn draw_circle(&mut self, _: Point, _: Point, _: &StyleAttr, _: Option<String>) {}
    fn create_clip(&mut self, _: Point, _: Point, _: usize) -> ClipHandle {
        0
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

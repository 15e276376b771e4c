//! As much of SVG as a chart needs. Colours and type are legible on light and on dark ground; the ground itself is left to the page.

use std::fmt::Write;

/// Of text and of floors.
pub const GREY: &str = "#7d8590";
/// Lines behind the figures.
const FAINT: &str = "#7d859055";

/// Where a text stands in relation to its point.
#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// A drawing that grows.
pub struct Drawing {
    width: f64,
    body: String,
}

impl Drawing {
    pub fn new(width: f64) -> Drawing {
        Drawing { width, body: String::new() }
    }

    pub fn text(&mut self, x: f64, y: f64, anchor: Anchor, text: &str) {
        self.sized_text(x, y, anchor, 12, "normal", text);
    }

    pub fn heading(&mut self, x: f64, y: f64, text: &str) {
        self.sized_text(x, y, Anchor::Start, 15, "bold", text);
    }

    fn sized_text(&mut self, x: f64, y: f64, anchor: Anchor, size: u32, weight: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.add(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" font-weight=\"{weight}\" \
             fill=\"{GREY}\">{text}</text>"
        ));
    }

    /// A thin line behind the figures.
    pub fn rule(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.stroke(&[from, to], FAINT, 1.0, "");
    }

    pub fn line(&mut self, points: &[(f64, f64)], colour: &str) {
        self.stroke(points, colour, 2.0, "");
    }

    pub fn dashed(&mut self, points: &[(f64, f64)], colour: &str) {
        self.stroke(points, colour, 1.5, " stroke-dasharray=\"5 4\"");
    }

    fn stroke(&mut self, points: &[(f64, f64)], colour: &str, width: f64, more: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.add(&format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"{more}/>",
            points.join(" ")
        ));
    }

    /// A dot, full or hollow.
    pub fn dot(&mut self, (x, y): (f64, f64), colour: &str, is_full: bool) {
        let fill = if is_full { colour } else { "none" };
        self.add(&format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
        ));
    }

    fn add(&mut self, element: &str) {
        let _ = writeln!(self.body, "  {element}");
    }

    /// The whole file.
    pub fn finished(self, height: f64) -> String {
        let Drawing { width, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"system-ui, sans-serif\">\n{body}</svg>\n"
        )
    }
}

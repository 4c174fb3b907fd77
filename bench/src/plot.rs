//! CPU time of a lookup against the number of names, as an SVG.

use std::fmt::Write;

use crate::plan::{median, Samples, Scenario};
use crate::servers::Who;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
/// The area of the curves.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 690.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 380.0;

/// The plot. Names are on a logarithmic scale; each point is the median of all rounds.
pub(crate) fn svg(samples: &Samples) -> String {
    let curves =
        [(Who::C, "C daemon", "#c0392b"), (Who::Ours, "ours", "#1f6fb2"), (Who::Null, "null server", "#888888")];
    let curves = curves.map(|(who, label, colour)| (label, colour, points(samples, who)));
    let all = || curves.iter().flat_map(|(_, _, points)| points);
    let axes = Axes {
        decades: all().map(|(names, _)| names.log10().ceil()).fold(2.0, f64::max),
        step: step(all().map(|(_, cpu)| *cpu).fold(1.0, f64::max)),
        steps: 5,
    };

    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="13" fill="#222">
<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>
<text x="{LEFT}" y="28" font-size="16" font-weight="bold">CPU time of the server per lookup</text>
"##
    );
    axes.draw(&mut svg);
    for (number, (label, colour, points)) in curves.iter().enumerate() {
        let path: Vec<String> =
            points.iter().map(|(names, cpu)| format!("{:.1},{:.1}", axes.x(*names), axes.y(*cpu))).collect();
        let _ =
            writeln!(svg, r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#, path.join(" "));
        for (names, cpu) in points {
            let (x, y) = (axes.x(*names), axes.y(*cpu));
            let _ = writeln!(
                svg,
                r#"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="{colour}"><title>{label}, {names} names: {cpu:.1} µs</title></circle>"#
            );
        }
        let y = TOP + 12.0 + 20.0 * number as f64;
        let _ = writeln!(
            svg,
            r#"<line x1="{}" y1="{y}" x2="{}" y2="{y}" stroke="{colour}" stroke-width="2"/><circle cx="{}" cy="{y}" r="4" fill="{colour}"/><text x="{}" y="{}">{label}</text>"#,
            LEFT + 16.0,
            LEFT + 44.0,
            LEFT + 30.0,
            LEFT + 52.0,
            y + 4.5
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn points(samples: &Samples, who: Who) -> Vec<(f64, f64)> {
    let of_who = samples.iter().filter(|((scenario, _, of), _)| *scenario == Scenario::LookUps && *of == who);
    of_who
        .map(|((_, names, _), rounds)| (*names as f64, median(rounds.iter().map(|sample| sample.cpu).collect())))
        .collect()
}

/// The distance between grid lines, so that five are enough: 1, 2 or 5 times a power of ten.
fn step(most: f64) -> f64 {
    let magnitude = 10f64.powf((most / 5.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * magnitude).into_iter().find(|step| step * 5.0 >= most).unwrap_or(most)
}

struct Axes {
    /// The highest power of ten on the axis of names, which begins at 10.
    decades: f64,
    step: f64,
    steps: u32,
}

impl Axes {
    fn x(&self, names: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (names.log10() - 1.0) / (self.decades - 1.0)
    }

    fn y(&self, cpu: f64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * cpu / (self.step * f64::from(self.steps))
    }

    fn draw(&self, svg: &mut String) {
        for number in 0..=self.steps {
            let value = self.step * f64::from(number);
            let y = self.y(value);
            let colour = if number == 0 { "#222" } else { "#ddd" };
            let _ = writeln!(svg, r#"<line x1="{LEFT}" y1="{y:.1}" x2="{RIGHT}" y2="{y:.1}" stroke="{colour}"/>"#);
            let _ = writeln!(svg, r#"<text x="{}" y="{:.1}" text-anchor="end">{value}</text>"#, LEFT - 8.0, y + 4.5);
        }
        for decade in 1..=self.decades as u32 {
            let names = 10f64.powi(decade as i32);
            let x = self.x(names);
            let _ =
                writeln!(svg, r##"<line x1="{x:.1}" y1="{BOTTOM}" x2="{x:.1}" y2="{}" stroke="#222"/>"##, BOTTOM + 5.0);
            let _ = writeln!(svg, r#"<text x="{x:.1}" y="{}" text-anchor="middle">{names}</text>"#, BOTTOM + 20.0);
        }
        let (x, y) = ((LEFT + RIGHT) / 2.0, (TOP + BOTTOM) / 2.0);
        let _ = writeln!(svg, r##"<line x1="{LEFT}" y1="{TOP}" x2="{LEFT}" y2="{BOTTOM}" stroke="#222"/>"##);
        let _ = writeln!(svg, r#"<text x="{x}" y="{}" text-anchor="middle">registered names</text>"#, BOTTOM + 42.0);
        let _ = writeln!(
            svg,
            r#"<text x="22" y="{y}" text-anchor="middle" transform="rotate(-90 22 {y})">microseconds</text>"#
        );
    }
}

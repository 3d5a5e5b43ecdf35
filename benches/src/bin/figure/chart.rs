//! The picture: a few figures as bars, ours in colour.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Figures;
use crate::table::number;

/// Bars of one kind of figure.
struct Panel {
    title: &'static str,
    /// Which end is the good one.
    hint: &'static str,
    bars: &'static [Bar],
}

/// Where one bar comes from, and what it is called.
struct Bar {
    label: &'static str,
    is_ours: bool,
    of: [&'static str; 4],
}

const fn bar(label: &'static str, of: [&'static str; 4]) -> Bar {
    Bar {
        label,
        is_ours: false,
        of,
    }
}

const fn ours(label: &'static str, of: [&'static str; 4]) -> Bar {
    Bar {
        label,
        is_ours: true,
        of,
    }
}

const US: &str = "tower-keep-alive";

const PANELS: [Panel; 6] = [
    Panel {
        title: "Instructions for a warm request",
        hint: "less is better",
        bars: &[
            bar(
                "hyper alone",
                ["instructions", "warm GET", "hyper alone", "instructions"],
            ),
            ours(US, ["instructions", "warm GET", US, "instructions"]),
            bar(
                "hyper-util legacy",
                [
                    "instructions",
                    "warm GET",
                    "hyper-util legacy",
                    "instructions",
                ],
            ),
            bar(
                "reqwest",
                ["instructions", "warm GET", "reqwest", "instructions"],
            ),
        ],
    },
    Panel {
        title: "Requests per second, 50 connections",
        hint: "one thread; more is better",
        bars: &[
            bar(
                "hyper, pool by hand",
                [
                    "throughput",
                    "current_thread",
                    "hyper, pool by hand",
                    "requests/s",
                ],
            ),
            ours(US, ["throughput", "current_thread", US, "requests/s"]),
            bar(
                "hyper-util legacy",
                [
                    "throughput",
                    "current_thread",
                    "hyper-util legacy",
                    "requests/s",
                ],
            ),
            bar(
                "reqwest",
                ["throughput", "current_thread", "reqwest", "requests/s"],
            ),
        ],
    },
    Panel {
        title: "Requests per second through a proxy",
        hint: "50 sockets, 5 ms delay; more is better",
        bars: &[
            bar("no proxy", ["headline", "kept", "direct", "requests/s"]),
            ours(US, ["headline", "kept", "agent", "requests/s"]),
            bar("Go net/http", ["headline", "kept", "go", "requests/s"]),
            bar("undici", ["headline", "kept", "undici", "requests/s"]),
            bar(
                "agentkeepalive",
                ["headline", "kept", "agentkeepalive", "requests/s"],
            ),
        ],
    },
    Panel {
        title: "CPU seconds of the proxy for 10,000 requests",
        hint: "less is better",
        bars: &[
            ours(US, ["headline", "kept", "agent", "CPU s/10,000"]),
            bar("Go net/http", ["headline", "kept", "go", "CPU s/10,000"]),
            bar("undici", ["headline", "kept", "undici", "CPU s/10,000"]),
            bar(
                "agentkeepalive",
                ["headline", "kept", "agentkeepalive", "CPU s/10,000"],
            ),
        ],
    },
    Panel {
        title: "Checkout and checkin with callers in line, ns",
        hint: "flat is better",
        bars: &[
            ours("1 in line", ["pool", "1 in line", US, "ns"]),
            ours("100 in line", ["pool", "100 in line", US, "ns"]),
            ours("10,000 in line", ["pool", "10000 in line", US, "ns"]),
            ours("100,000 in line", ["pool", "100000 in line", US, "ns"]),
        ],
    },
    Panel {
        title: "Bytes of an idle connection",
        hint: "less is better",
        bars: &[
            bar(
                "hyper alone",
                ["memory", "idle connection", "hyper alone", "bytes"],
            ),
            ours(
                US,
                ["memory", "idle connection", "the agent, one host", "bytes"],
            ),
        ],
    },
];

const WIDTH: i32 = 960;
const MARGIN: i32 = 24;
const COLUMNS: i32 = 2;
const PANEL_HEIGHT: i32 = 200;
/// Of the labels, and of the longest bar.
const LABEL: i32 = 140;
const LONGEST: i32 = 210;
const ROW: i32 = 26;

// A background of its own: GitHub shows the picture on white and on black.
const PAPER: RGBColor = RGBColor(255, 255, 255);
const INK: RGBColor = RGBColor(31, 35, 40);
const PALE_INK: RGBColor = RGBColor(89, 99, 110);
const OURS: RGBColor = RGBColor(9, 105, 218);
const THEIRS: RGBColor = RGBColor(175, 184, 193);

/// The picture as SVG, of the panels that have figures.
pub(crate) fn draw(figures: &Figures) -> String {
    let panels: Vec<_> = PANELS.iter().filter(|it| it.is_known(figures)).collect();
    let rows = (panels.len() as i32 + COLUMNS - 1) / COLUMNS;
    let size = (WIDTH as u32, (2 * MARGIN + rows * PANEL_HEIGHT) as u32);
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    area.fill(&PAPER).expect("text can be written");
    for (panel, at) in panels.into_iter().zip(0..) {
        let x = MARGIN + at % COLUMNS * (WIDTH - MARGIN) / COLUMNS;
        let y = MARGIN + at / COLUMNS * PANEL_HEIGHT;
        panel.draw(&area, (x, y), figures);
    }
    area.present().expect("text can be written");
    drop(area);
    svg
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

impl Panel {
    fn is_known(&self, figures: &Figures) -> bool {
        self.bars.iter().any(|bar| bar.value(figures).is_some())
    }

    fn draw(&self, area: &Area<'_>, (x, y): (i32, i32), figures: &Figures) {
        text(area, self.title, (x, y + 8), 20, INK, HPos::Left);
        text(area, self.hint, (x, y + 29), 15, PALE_INK, HPos::Left);
        let bars: Vec<_> = self
            .bars
            .iter()
            .filter_map(|it| Some((it, it.value(figures)?)))
            .collect();
        let most = bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        for ((bar, value), place) in bars.into_iter().zip(0..) {
            let top = y + 44 + place * ROW;
            let middle = top + (ROW - 6) / 2;
            let (left, right) = (
                x + LABEL,
                x + LABEL + (value / most * f64::from(LONGEST)) as i32,
            );
            let colour = if bar.is_ours { OURS } else { THEIRS };
            text(area, bar.label, (left - 8, middle), 16, INK, HPos::Right);
            let bar = Rectangle::new(
                [(left, top), (right.max(left + 1), top + ROW - 6)],
                colour.filled(),
            );
            area.draw(&bar).expect("text can be written");
            text(
                area,
                &number(value),
                (right + 6, middle),
                16,
                INK,
                HPos::Left,
            );
        }
    }
}

impl Bar {
    fn value(&self, figures: &Figures) -> Option<f64> {
        let [bench, case, peer, unit] = self.of;
        figures.value(bench, case, peer, unit)
    }
}

fn text(area: &Area<'_>, text: &str, at: (i32, i32), size: i32, colour: RGBColor, from: HPos) {
    let style = TextStyle::from(("sans-serif", size).into_font())
        .color(&colour)
        .pos(Pos::new(from, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))
        .expect("text can be written");
}

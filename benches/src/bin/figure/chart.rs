//! The picture: bars of every peer that the tables have, the best first, ours in colour.
//!
//! One column, so that its text can be read on a phone; light or dark as the reader's system is.

use svg::Document;
use svg::node::element::{Line, Rectangle, Style, Text, Title};
use tower_keep_alive_benches::report::Figure;

use crate::Figures;
use crate::table::{TABLES, number};

/// Bars of one kind of figure.
struct Panel {
    title: &'static str,
    hint: &'static str,
    best: Best,
    bench: &'static str,
    case: &'static str,
    unit: &'static str,
}

#[derive(Clone, Copy)]
enum Best {
    Least,
    Most,
}

const fn panel(
    title: &'static str,
    hint: &'static str,
    best: Best,
    [bench, case, unit]: [&'static str; 3],
) -> Panel {
    Panel {
        title,
        hint,
        best,
        bench,
        case,
        unit,
    }
}

const PANELS: &[Panel] = &[
    panel(
        "Instructions for a warm request",
        "all of it, hyper included",
        Best::Least,
        ["instructions", "warm GET", "instructions"],
    ),
    panel(
        "Instructions for a warm request, HTTP/2",
        "all of it, h2 included",
        Best::Least,
        ["instructions", "warm GET, HTTP/2", "instructions"],
    ),
    panel(
        "Requests per second, one thread",
        "50 connections, no delay",
        Best::Most,
        ["throughput", "current_thread", "requests/s"],
    ),
    panel(
        "Requests per second, two threads",
        "50 connections, no delay",
        Best::Most,
        ["throughput", "multi_thread(2)", "requests/s"],
    ),
    panel(
        "Requests per second, HTTP/2",
        "500 callers on one connection, one thread",
        Best::Most,
        ["throughput", "HTTP/2, 500 callers", "requests/s"],
    ),
    panel(
        "Requests lost, HTTP/2, of 50,000 POSTs",
        "GOAWAY that names a stream 20 back",
        Best::Least,
        ["lost", "GOAWAY, 20 streams back", "lost, POST"],
    ),
    panel(
        "Time of one request for 12 bytes",
        "loopback, as a multiple of hyper alone",
        Best::Least,
        ["request", "get 12 B, loopback", "to hyper"],
    ),
    panel(
        "Checkout and checkin, ns",
        "one thread, nobody in line",
        Best::Least,
        ["pool", "alone", "ns"],
    ),
    panel(
        "Checkout and checkin, ns",
        "two threads on one host",
        Best::Least,
        ["pool", "2 threads, 1 host", "ns"],
    ),
    panel(
        "Checkout and checkin, ns",
        "100,000 callers in line",
        Best::Least,
        ["pool", "100000 in line", "ns"],
    ),
    panel(
        "Checkout and checkin, ns",
        "100,000 hosts in turn",
        Best::Least,
        ["pool", "100000 hosts", "ns"],
    ),
    panel(
        "Requests per second through a proxy",
        "50 kept connections, 5 ms delay",
        Best::Most,
        ["headline", "kept", "requests/s"],
    ),
    panel(
        "CPU seconds of the proxy, 10,000 requests",
        "kept connections",
        Best::Least,
        ["headline", "kept", "CPU s/10,000"],
    ),
    panel(
        "Memory of the proxy at its peak, MiB",
        "kept connections",
        Best::Least,
        ["headline", "kept", "peak MiB"],
    ),
    panel(
        "Requests per second through a proxy",
        "no keep-alive; agentkeepalive still reuses some",
        Best::Most,
        ["headline", "one a request", "requests/s"],
    ),
    panel(
        "CPU seconds of the proxy, 10,000 requests",
        "no keep-alive; agentkeepalive still reuses some",
        Best::Least,
        ["headline", "one a request", "CPU s/10,000"],
    ),
    panel(
        "Bytes of an idle connection",
        "hyper's own buffers included",
        Best::Least,
        ["memory", "idle connection", "bytes"],
    ),
];

const WIDTH: i32 = 520;
const MARGIN: i32 = 16;
/// Where bars begin, and the length of the longest.
const LEFT: i32 = 270;
const LONGEST: i32 = 160;
const ROW: i32 = 25;
const BAR: i32 = 17;
/// What a panel has above its bars, and below.
const HEAD: i32 = 48;
const FOOT: i32 = 22;

const STYLE: &str = "
text { font: 15px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #1f2328; }
.title { font-size: 17px; font-weight: 600; }
.label { font-size: 14px; }
.pale { fill: #59636e; }
.us { font-weight: 600; }
.paper { fill: #ffffff; }
.theirs { fill: #afb8c1; }
.ours { fill: #0969da; }
.range { stroke: #1f2328; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .pale { fill: #9198a1; }
  .paper { fill: #0d1117; }
  .theirs { fill: #57606a; }
  .ours { fill: #4493f8; }
  .range { stroke: #e6edf3; }
}
";

/// The picture as SVG, of the panels that have figures.
pub(crate) fn draw(figures: &Figures) -> String {
    let mut picture = Document::new()
        .add(Title::new(
            "tower-keep-alive beside its peers: the figures of the tables as bars",
        ))
        .add(Style::new(STYLE));
    let mut nodes = Vec::new();
    let mut top = MARGIN;
    for panel in PANELS {
        let bars = panel.bars(figures);
        if !bars.is_empty() {
            panel.draw(&mut nodes, top, &bars);
            top += HEAD + ROW * bars.len() as i32 + FOOT;
        }
    }
    // A ground of its own: what a picture is shown on need not be of the reader's scheme.
    picture = picture
        .set("viewBox", (0, 0, WIDTH, top))
        .set("width", WIDTH)
        .set("height", top)
        .set("role", "img")
        .add(
            Rectangle::new()
                .set("class", "paper")
                .set("width", WIDTH)
                .set("height", top)
                .set("rx", 8),
        );
    for node in nodes {
        picture = picture.add(node);
    }
    format!("{picture}\n")
}

/// The peers of a table that the picture does not have.
pub(crate) fn missing(figures: &Figures) -> Vec<String> {
    let drawn = |figure: &Figure| {
        let mut panels = PANELS.iter().filter(|panel| panel.bench == figure.bench);
        panels.any(|panel| {
            let mut bars = panel.bars(figures).into_iter();
            bars.any(|bar| bar.peer == figure.peer)
        })
    };
    let mut missing: Vec<_> = TABLES
        .iter()
        .flat_map(|table| table.part(figures))
        // Ours alone is beside nobody.
        .filter(|figure| figure.case != "crowd of hosts" && figure.unit != "instructions")
        .filter(|figure| !drawn(figure))
        .map(|figure| format!("{}: {}", figure.bench, figure.peer))
        .collect();
    missing.dedup();
    missing
}

type Node = Box<dyn svg::Node>;

impl Panel {
    /// One for each peer, the best first.
    fn bars<'a>(&self, figures: &'a Figures) -> Vec<&'a Figure> {
        let mut bars: Vec<_> = figures
            .0
            .iter()
            .filter(|it| (&*it.bench, &*it.case, &*it.unit) == (self.bench, self.case, self.unit))
            .collect();
        bars.sort_by(|a, b| match self.best {
            Best::Least => a.value.total_cmp(&b.value),
            Best::Most => b.value.total_cmp(&a.value),
        });
        bars
    }

    fn draw(&self, nodes: &mut Vec<Node>, top: i32, bars: &[&Figure]) {
        let which = match self.best {
            Best::Least => "less is better",
            Best::Most => "more is better",
        };
        nodes.push(text("title", "start", (MARGIN, top + 17), self.title));
        let hint = format!("{}; {which}", self.hint);
        nodes.push(text("pale", "start", (MARGIN, top + 38), &hint));
        let ends = bars
            .iter()
            .map(|it| it.spread.map_or(it.value, |[_, most]| most));
        let scale = f64::from(LONGEST) / ends.fold(f64::MIN_POSITIVE, f64::max);
        for (bar, place) in bars.iter().zip(0..) {
            let top = top + HEAD + place * ROW;
            let (bottom, middle) = (top + BAR - 4, f64::from(top) + f64::from(BAR) / 2.0);
            let (label, is_ours) = label(&bar.peer);
            let weight = if is_ours { "us" } else { "" };
            nodes.push(text("label", "end", (LEFT - 8, bottom), &label));
            let length = bar.value * scale;
            nodes.push(Box::new(
                Rectangle::new()
                    .set("class", if is_ours { "ours" } else { "theirs" })
                    .set("x", LEFT)
                    .set("y", top)
                    .set("width", tenths(length.max(1.0)))
                    .set("height", BAR),
            ));
            let mut end = length;
            if let Some([least, most]) = bar.spread {
                let at = |value: f64| tenths(f64::from(LEFT) + value * scale);
                nodes.push(Box::new(
                    Line::new()
                        .set("class", "range")
                        .set("x1", at(least))
                        .set("x2", at(most))
                        .set("y1", middle)
                        .set("y2", middle),
                ));
                end = most * scale;
            }
            let after = LEFT + end.ceil() as i32 + 6;
            nodes.push(text(weight, "start", (after, bottom), &number(bar.value)));
        }
    }
}

/// What a peer is called in the picture, and whether that is us.
fn label(peer: &str) -> (String, bool) {
    let is_ours = peer == "agent" || peer.starts_with("tower-") || peer.starts_with("the agent");
    let label = match peer {
        "agent" => "tower-keep-alive".to_owned(),
        "go" => "Go net/http".to_owned(),
        _ => peer.replace("the agent", "tower-keep-alive"),
    };
    (label, is_ours)
}

fn text(class: &str, anchor: &str, (x, y): (i32, i32), words: &str) -> Node {
    let node = Text::new(words)
        .set("x", x)
        .set("y", y)
        .set("text-anchor", anchor);
    Box::new(if class.is_empty() {
        node
    } else {
        node.set("class", class)
    })
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

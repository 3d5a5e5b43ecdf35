//! The picture: bars of every peer that the tables have, the best first, ours in colour.
//!
//! As wide as a phone, each bar below its name; light or dark as the reader's system is.

use svg::Document;
use svg::node::element::{Line, Rectangle, Style, Text, Title};
use tower_keep_alive_benches::report::Figure;

use crate::Figures;
use crate::table::{PACKAGE, TABLES, command, number};

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
        "50 callers, 1 connection, 1 thread",
        Best::Most,
        ["throughput", "HTTP/2, 50 callers", "requests/s"],
    ),
    panel(
        "Requests per second, HTTP/2",
        "500 callers, 1 connection, 1 thread",
        Best::Most,
        ["throughput", "HTTP/2, 500 callers", "requests/s"],
    ),
    panel(
        "Requests per second, HTTP/2",
        "500 callers, 4 connections, 2 threads",
        Best::Most,
        ["throughput", "HTTP/2, 4 connections", "requests/s"],
    ),
    panel(
        "Requests lost, HTTP/2, of 50,000 GETs",
        "GOAWAY that names a stream 20 back",
        Best::Least,
        ["lost", "GOAWAY, 20 streams back", "lost, GET"],
    ),
    panel(
        "Requests lost, HTTP/2, of 50,000 POSTs",
        "GOAWAY that names a stream 20 back",
        Best::Least,
        ["lost", "GOAWAY, 20 streams back", "lost, POST"],
    ),
    panel(
        "Streams beyond the server's limit of 10",
        "HTTP/2, GETs that were sent all the same",
        Best::Least,
        ["lost", "limit of 10", "beyond limit, GET"],
    ),
    panel(
        "Time of a GET over HTTP/2, ms",
        "10 streams at most, a server of 2 ms",
        Best::Least,
        ["lost", "limit of 10", "p50 ms, GET"],
    ),
    panel(
        "Requests to the first of ten addresses, %",
        "one name, 100 callers; 10 is an equal share",
        Best::Least,
        ["spread", "one name", "% to 127.0.0.1"],
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
        "two threads, 1,000 hosts",
        Best::Least,
        ["pool", "2 threads, 1,000 hosts", "ns"],
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
        "no keep-alive (agentkeepalive has some)",
        Best::Most,
        ["headline", "one a request", "requests/s"],
    ),
    panel(
        "CPU seconds of the proxy, 10,000 requests",
        "no keep-alive (agentkeepalive has some)",
        Best::Least,
        ["headline", "one a request", "CPU s/10,000"],
    ),
    panel(
        "Requests per second through a proxy",
        "60 kept connections, no delay",
        Best::Most,
        ["headline", "no delay", "requests/s"],
    ),
    panel(
        "CPU seconds of the proxy, 10,000 requests",
        "60 kept connections, no delay",
        Best::Least,
        ["headline", "no delay", "CPU s/10,000"],
    ),
    panel(
        "TLS 1.3: full handshakes per second",
        "a connection for each request, 4 callers",
        Best::Most,
        ["tls", "handshakes, full", "requests/s"],
    ),
    panel(
        "TLS 1.3: resumed handshakes per second",
        "a connection for each request, 4 callers",
        Best::Most,
        ["tls", "handshakes, resumed", "requests/s"],
    ),
    panel(
        "TLS 1.3: requests per second, 12 bytes",
        "16 kept connections",
        Best::Most,
        ["tls", "12 B", "requests/s"],
    ),
    panel(
        "TLS 1.3: requests per second, 64 KiB",
        "16 kept connections",
        Best::Most,
        ["tls", "64 KiB", "requests/s"],
    ),
    panel(
        "TLS 1.3: requests per second, 1 MiB",
        "16 kept connections",
        Best::Most,
        ["tls", "1 MiB", "requests/s"],
    ),
    panel(
        "TLS 1.3: a request of 12 bytes, CPU µs",
        "of the client",
        Best::Least,
        ["tls", "12 B", "CPU µs"],
    ),
    panel(
        "TLS 1.3: 12 bytes, requests of reqwest's",
        "the ratio of requests per second",
        Best::Most,
        ["tls", "12 B", "of reqwest"],
    ),
    panel(
        "The tail at 0.9 × what the server can, ms",
        "99.9 % are faster; open loop",
        Best::Least,
        ["tail", "0.9 × capacity", "p99.9 ms"],
    ),
    panel(
        "The tail at 1.1 × what the server can, ms",
        "99.9 % are faster; open loop",
        Best::Least,
        ["tail", "1.1 × capacity", "p99.9 ms"],
    ),
    panel(
        "The same, 99 % are faster, ms",
        "of those that were answered",
        Best::Least,
        ["tail", "1.1 × capacity", "p99 ms"],
    ),
    panel(
        "The same, half are faster, ms",
        "of those that were answered",
        Best::Least,
        ["tail", "1.1 × capacity", "p50 ms"],
    ),
    panel(
        "The same, requests that failed, per cent",
        "those that were turned away among them",
        Best::Least,
        ["tail", "1.1 × capacity", "failed %"],
    ),
    panel(
        "Answers within 50 ms at 2 × the load",
        "as a part of what the server can",
        Best::Most,
        ["tail", "2 × capacity", "good"],
    ),
    panel(
        "Bytes of an idle connection",
        "hyper's own buffers included",
        Best::Least,
        ["memory", "idle connection", "bytes"],
    ),
];

/// Of a phone; on wider ground it is as wide.
const WIDTH: i32 = 390;
const MARGIN: i32 = 14;
/// The length of the longest bar, the value behind it left out.
const LONGEST: i32 = WIDTH - 2 * MARGIN;
const ROW: i32 = 32;
const BAR: i32 = 8;
/// From the top of a row to its bar: the name and the value.
const NAME: i32 = 18;
/// What the picture has above the first panel.
const TOP: i32 = 46;
/// What a panel has above its bars, and below.
const HEAD: i32 = 62;
const FOOT: i32 = 22;

const STYLE: &str = "
text { font: 14px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #1f2328; }
.title { font-size: 15px; font-weight: 600; }
.pale { font-size: 13px; fill: #59636e; }
.command { font-size: 12px; fill: #59636e; }
.us { font-weight: 600; }
.paper { fill: #ffffff; }
.theirs { fill: #afb8c1; }
.ours { fill: #0969da; }
.range { stroke: #1f2328; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .pale, .command { fill: #9198a1; }
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
    let line = "In the commands, … is tower-keep-alive-benches.";
    nodes.push(text("pale", "start", (MARGIN, MARGIN + 12), line));
    let mut top = TOP;
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

/// The peers of a table that no panel has with a figure of the same table.
pub(crate) fn missing(figures: &Figures) -> Vec<String> {
    let drawn: Vec<_> = PANELS.iter().flat_map(|it| it.bars(figures)).collect();
    let mut missing = Vec::new();
    for table in TABLES {
        let bars: Vec<_> = drawn.iter().filter(|bar| table.has(bar)).collect();
        let lacks = |figure: &&Figure| !bars.iter().any(|bar| bar.peer == figure.peer);
        // Ours alone is beside nobody.
        let part = table.part(figures).filter(|figure| {
            figure.case != "crowd of hosts" && figure.peer != "ours, instructions"
        });
        missing.extend(
            part.filter(lacks)
                .map(|it| format!("{}: {}", table.title, it.peer)),
        );
    }
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
        nodes.push(text("title", "start", (MARGIN, top + 15), self.title));
        let hint = format!("{}; {which}", self.hint);
        nodes.push(text("pale", "start", (MARGIN, top + 33), &hint));
        let command = command(self.bench).replace(PACKAGE, "…");
        nodes.push(text("command", "start", (MARGIN, top + 50), &command));
        let ends = bars
            .iter()
            .map(|it| it.spread.map_or(it.value, |[_, most]| most));
        let scale = f64::from(LONGEST) / ends.fold(f64::MIN_POSITIVE, f64::max);
        for (bar, place) in bars.iter().zip(0..) {
            let top = top + HEAD + place * ROW;
            let bar_top = top + NAME;
            let middle = f64::from(bar_top) + f64::from(BAR) / 2.0;
            let (label, is_ours) = label(&bar.peer);
            let weight = if is_ours { "us" } else { "" };
            nodes.push(text(weight, "start", (MARGIN, top + 13), &label));
            let value = (WIDTH - MARGIN, top + 13);
            nodes.push(text(weight, "end", value, &number(bar.value)));
            let length = bar.value * scale;
            nodes.push(Box::new(
                Rectangle::new()
                    .set("class", if is_ours { "ours" } else { "theirs" })
                    .set("x", MARGIN)
                    .set("y", bar_top)
                    .set("width", tenths(length.max(1.0)))
                    .set("height", BAR),
            ));
            if let Some([least, most]) = bar.spread {
                let at = |value: f64| tenths(f64::from(MARGIN) + value * scale);
                nodes.push(Box::new(
                    Line::new()
                        .set("class", "range")
                        .set("x1", at(least))
                        .set("x2", at(most))
                        .set("y1", middle)
                        .set("y2", middle),
                ));
            }
        }
    }
}

/// What a peer is called in the picture, and whether that is us.
fn label(peer: &str) -> (String, bool) {
    let is_ours = peer == "agent"
        || ["agent,", "tower-", "the agent"]
            .iter()
            .any(|it| peer.starts_with(it));
    let label = match peer {
        "agent" => "tower-keep-alive".to_owned(),
        "go" => "Go net/http".to_owned(),
        _ => peer
            .replace("the agent", "tower-keep-alive")
            .replace("agent, ", "tower-keep-alive, "),
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

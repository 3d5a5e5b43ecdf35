//! Writes `docs/benchmarks.svg` and `docs/benchmarks.md` from what the other benches have found.
//!
//! `benches/run.sh` runs them all, leaves what they found in `docs/benchmarks.jsonl`, and runs this. Both can be written
//! again from that file: `cargo run --release -p tower-keep-alive-benches --bin figure`. Where a figure is there twice, the
//! later one counts; what is not there is left out, and a peer that a table shows and no bars of that table do is a failure.

mod chart;
mod table;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Parser;
use tower_keep_alive_benches::report::Figure;

use crate::table::{TABLES, Table};

/// The figures, drawn and as tables
#[derive(Parser)]
struct Arguments {
    /// Figures, a line of JSON each [default: docs/benchmarks.jsonl]
    file: Option<PathBuf>,
}

/// All that was found.
struct Figures(Vec<Figure>);

impl Figures {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("the file can be read");
        let mut figures: Vec<Figure> = Vec::new();
        for line in text.lines() {
            let figure: Figure = serde_json::from_str(line).expect("the benches have written it");
            let same = figures.iter_mut().find(|it| {
                (&it.bench, &it.case, &it.peer, &it.unit)
                    == (&figure.bench, &figure.case, &figure.peer, &figure.unit)
            });
            match same {
                Some(earlier) => *earlier = figure,
                None => figures.push(figure),
            }
        }
        Self(figures)
    }
}

fn main() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let file = Arguments::parse().file;
    let figures = Figures::read(&file.unwrap_or_else(|| docs.join("benchmarks.jsonl")));
    let missing = chart::missing(&figures);
    assert!(missing.is_empty(), "not in the picture: {missing:?}");
    let write = |name: &str, text: String| {
        std::fs::write(docs.join(name), text).expect("docs can be written");
        println!("written: docs/{name}");
    };
    write("benchmarks.svg", chart::draw(&figures));
    write("benchmarks.md", page(&figures));
}

fn page(figures: &Figures) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut page = format!(
        "# Benchmarks\n\n\
         Written by `benches/run.sh`, which runs them all; how each measures, and how to read it, is at the top of its \
         source in `benches/`. These are of one run on {cores} cores, {}, built by {}, with the versions in \
         `Cargo.lock`. Counts (instructions, allocations, system calls, sockets, bytes) are the same from run to run; \
         times are not, and on a machine that does other things as well they differ by a tenth and more. A time is the \
         median of its rounds, with the least and the most of them in parentheses where the run kept them. \
         Below each table is the command that makes it. `benchmarks.jsonl` has the figures for programs.\n\n\
         ![Figures of the tables below](benchmarks.svg)\n",
        std::env::consts::ARCH,
        env!("BUILT_WITH"),
    );
    for table in TABLES {
        if let Some(rows) = table.markdown(figures) {
            let Table { title, text, .. } = table;
            let command = table.command();
            let _ = write!(page, "\n## {title}\n\n{text}\n\n{rows}\n`{command}`\n");
        }
    }
    page
}

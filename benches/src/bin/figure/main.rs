//! Writes `docs/benchmarks.svg` and `docs/benchmarks.md` from what the other benches have found.
//!
//! `benches/run.sh` runs them all, and then this; or `cargo run --release -p tower-keep-alive-benches --bin figure -- FILE`
//! with a file that they have written by `--json FILE`. Where a figure is there twice, the later one counts; what is not
//! there is left out.

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
    /// Figures, a line of JSON each
    file: PathBuf,
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
                Some(earlier) => earlier.value = figure.value,
                None => figures.push(figure),
            }
        }
        Self(figures)
    }

    fn value(&self, bench: &str, case: &str, peer: &str, unit: &str) -> Option<f64> {
        let mut all = self.0.iter();
        let same = |it: &&Figure| {
            (&*it.bench, &*it.case, &*it.peer, &*it.unit) == (bench, case, peer, unit)
        };
        all.find(same).map(|it| it.value)
    }
}

fn main() {
    let figures = Figures::read(&Arguments::parse().file);
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    std::fs::create_dir_all(&docs).expect("docs can be there");
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
         times are not, and on a machine that does other things as well they differ by a tenth and more.\n\n\
         ![Figures of the tables below](benchmarks.svg)\n",
        std::env::consts::ARCH,
        env!("BUILT_WITH"),
    );
    for table in TABLES {
        if let Some(rows) = table.markdown(figures) {
            let Table { title, text, .. } = table;
            let _ = write!(page, "\n## {title}\n\n{text}\n\n{rows}");
        }
    }
    page
}

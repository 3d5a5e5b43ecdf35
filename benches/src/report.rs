//! What a bench found, for programs: a line of JSON for each figure, from which `figure` draws.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One figure.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Figure {
    /// The program that found it.
    pub bench: String,
    /// What was done, such as `get 12 B, loopback`.
    pub case: String,
    /// Who did it.
    pub peer: String,
    /// What was measured, with its unit.
    pub unit: String,
    /// A count, or the median of some rounds.
    pub value: f64,
    /// The least and the most of the rounds; none for a count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<[f64; 2]>,
}

/// What was measured in several rounds: the median, the least and the most.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Spread {
    /// Not a number without a round.
    pub fn of(rounds: &[f64]) -> Self {
        Self {
            least: rounds.iter().copied().reduce(f64::min).unwrap_or(f64::NAN),
            median: median(&mut rounds.to_vec()),
            most: rounds.iter().copied().reduce(f64::max).unwrap_or(f64::NAN),
        }
    }
}

/// A count, which is the same in every round.
impl From<f64> for Spread {
    fn from(count: f64) -> Self {
        Self {
            least: count,
            median: count,
            most: count,
        }
    }
}

/// Where figures go: nowhere, unless a file is given.
#[derive(Debug)]
pub struct Report {
    bench: &'static str,
    file: Option<PathBuf>,
}

impl Report {
    /// Lines are added to `file`, which other benches may have begun.
    pub fn new(bench: &'static str, file: Option<PathBuf>) -> Self {
        Self { bench, file }
    }

    /// # Panics
    ///
    /// If it cannot be written.
    pub fn figure(&self, case: &str, peer: &str, unit: &str, value: impl Into<Spread>) {
        let Some(path) = &self.file else {
            return;
        };
        let Spread {
            least,
            median,
            most,
        } = value.into();
        let figure = Figure {
            bench: self.bench.to_owned(),
            case: case.to_owned(),
            peer: peer.to_owned(),
            unit: unit.to_owned(),
            value: median,
            spread: (least < most).then_some([least, most]),
        };
        let append = || -> io::Result<()> {
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            writeln!(file, "{}", serde_json::to_string(&figure)?)
        };
        append().expect("the file of the figures can be written");
    }
}

/// The middle one.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[length / 2],
        length => (values[length / 2 - 1] + values[length / 2]) / 2.0,
    }
}

/// `12345678` as `12,345,678`.
pub fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 {
        format!("-{text}")
    } else {
        text
    }
}

//! When requests are to be sent, drawn in advance.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use fastrand::Rng;

use crate::CALLERS;

/// In this time the connections are made. In seconds.
const WARM_UP: f64 = 1.0;

pub(crate) struct Schedule {
    /// From the beginning, in order.
    pub(crate) arrivals: Vec<Duration>,
    /// How long it counts.
    pub(crate) seconds: f64,
}

impl Schedule {
    /// The same for the same round: `rate` requests a second, of callers that know nothing of each other.
    pub(crate) fn draw(round: u64, rate: f64, seconds: f64) -> Self {
        let end = WARM_UP + seconds;
        let mean = CALLERS as f64 / rate;
        let mut rng = Rng::with_seed(round);
        let mut arrivals = Vec::new();
        for _ in 0..CALLERS {
            let mut pause = || -mean * (1.0 - rng.f64()).ln();
            let mut at = pause();
            while at < end {
                arrivals.push(Duration::from_secs_f64(at));
                at += pause();
            }
        }
        arrivals.sort();
        Self { arrivals, seconds }
    }

    /// Of a list with a place for each arrival, the part that counts.
    pub(crate) fn counted<'a, T>(&self, each: &'a [T]) -> &'a [T] {
        let warm_up = Duration::from_secs_f64(WARM_UP);
        &each[self.arrivals.partition_point(|&it| it < warm_up)..]
    }

    /// Microseconds, a line each.
    pub(crate) fn write(&self, file: &Path) -> io::Result<()> {
        let lines = self
            .arrivals
            .iter()
            .map(|it| format!("{}\n", it.as_micros()));
        fs::write(file, lines.collect::<String>())
    }

    pub(crate) fn read(file: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(file)?;
        let arrivals = text.lines().map(|line| {
            let micros = line.parse().map_err(io::Error::other)?;
            Ok(Duration::from_micros(micros))
        });
        Ok(Self {
            arrivals: arrivals.collect::<io::Result<_>>()?,
            seconds: 0.0,
        })
    }
}

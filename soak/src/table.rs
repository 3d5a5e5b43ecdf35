//! What a soak says at its end.

use std::fmt::Write;
use std::time::Duration;

use crate::ledger::{Ledger, Wrong, read};
use crate::temper::Temper;

/// What a process has at one moment.
pub(crate) struct Held {
    pub(crate) descriptors: Option<usize>,
    pub(crate) tasks: usize,
    /// In KiB.
    pub(crate) resident: Option<u64>,
}

const WRONG: [(Wrong, &str); 9] = [
    (Wrong::Mismatch, "mismatches"),
    (Wrong::Failed, "failed without excuse"),
    (Wrong::Hang, "neither answer nor error"),
    (Wrong::Twice, "POSTs executed twice"),
    (Wrong::Desync, "no request, or another upload"),
    (Wrong::Misused, "connections used beyond their end"),
    (Wrong::TooMany, "transports beyond the limits"),
    (Wrong::SlotLost, "slots lost"),
    (Wrong::Leak, "accounts that do not agree"),
];

/// In Markdown.
pub(crate) fn table(
    ledger: &Ledger,
    took: Duration,
    rounds: u64,
    before: &Held,
    after: &Held,
) -> String {
    let mut text = format!(
        "| in {:.0} s, {rounds} rounds | |\n|---|---:|\n",
        took.as_secs_f64()
    );
    let mut row = |name: &str, value: u64| {
        writeln!(text, "| {name} | {value} |").expect("a string takes all");
    };
    row("requests", read(&ledger.requests));
    row("answered and read to the end", read(&ledger.whole));
    row("given up by the caller", read(&ledger.cancelled));
    row("left half read", read(&ledger.left));
    row("failed by what was done to them", read(&ledger.failed));
    row("refused by a limit of the line", read(&ledger.refused));
    row("connections", read(&ledger.accepted));
    row("of them under TLS", read(&ledger.tls));
    row("reused", read(&ledger.reused));
    row("found stale before reuse", read(&ledger.stale));
    row("requests over HTTP/2", read(&ledger.http2));
    row("changes of DNS", read(&ledger.dns_changes));
    row("MiB of bodies", read(&ledger.bytes) >> 20);
    row("faults injected", ledger.injected());
    for temper in Temper::ALL {
        row(&format!("· {}", temper.name()), ledger.done(temper));
    }
    let retries = read(&ledger.tries).saturating_sub(read(&ledger.calls));
    row("second tries of the retry policy", retries);
    for (wrong, name) in WRONG {
        row(&format!("**{name}**"), ledger.how_often(wrong));
    }
    let mut row = |name: &str, before: u64, after: u64| {
        writeln!(
            text,
            "| {name}, at the start and at the end | {before}, {after} |"
        )
        .expect("a string takes all");
    };
    if let (Some(before), Some(after)) = (before.descriptors, after.descriptors) {
        row("descriptors", before as u64, after as u64);
    }
    row("tasks", before.tasks as u64, after.tasks as u64);
    if let (Some(before), Some(after)) = (before.resident, after.resident) {
        row("MiB resident", before >> 10, after >> 10);
    }
    text
}

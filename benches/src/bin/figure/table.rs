//! Tables in Markdown.

use std::fmt::Write as _;

use tower_keep_alive_benches::report::{Figure, thousands};

use crate::Figures;

/// Peers down, and units or cases across.
pub(crate) struct Table {
    pub(crate) title: &'static str,
    pub(crate) text: &'static str,
    bench: &'static str,
    is_part: fn(&Figure) -> bool,
    column: fn(&Figure) -> &str,
}

pub(crate) const TABLES: &[Table] = &[
    Table {
        title: "What a warm request costs",
        text: "`instructions`: one GET on a warm connection, counted by valgrind and strace. *share* is what is above \
               hyper alone, which gets the same request.",
        bench: "instructions",
        is_part: |it| it.case == "warm GET",
        column: |it| &it.unit,
    },
    Table {
        title: "What a warm request costs over HTTP/2",
        text: "The same, on one connection. *share* is what is above the `h2` crate alone, which hyper is made of too.",
        bench: "instructions",
        is_part: |it| it.case == "warm GET, HTTP/2",
        column: |it| &it.unit,
    },
    Table {
        title: "The benchmark of agentkeepalive: connections that are kept",
        text: "`headline`: 60 callers, 50 sockets, a server that takes 5 ms, through a proxy on each client. *plain sockets* is \
               the base: a proxy that passes bytes on over as many connections, kept or not like the others', and does \
               nothing else; no proxy can be faster. *of base* is within *noise* of 1 or below, which is the most that the \
               base differs from itself within a round. CPU and memory are the proxy's. Each may use two threads, but node, \
               which has one. nginx and pingora have no line for requests that wait for one of 50 connections.",
        bench: "headline",
        is_part: |it| it.case == "kept",
        column: |it| &it.unit,
    },
    Table {
        title: "The same, a connection for each request",
        text: "agentkeepalive (and Node) hand a connection over to a waiting request even then, and so have no ratio: they \
               open fewer.",
        bench: "headline",
        is_part: |it| it.case == "one a request",
        column: |it| &it.unit,
    },
    Table {
        title: "The same, by a server that answers at once",
        text: "60 callers, and as many sockets as they are: nobody waits for one, and the processor is the limit. *agent* has one \
               runtime of two threads; *agent, --runtimes 2* is the same proxy on two runtimes of one thread each, which share the \
               agent.\n\nWhy ours takes more of the processor than nginx. It is not the number of system calls: both make two writes and \
               two reads for a request, and look once at the server's socket. It is the instructions in user space, of which \
               callgrind counts 30,000 for a request of ours (on one thread), and 15,800 for one of nginx'. hyper \
               alone, as a server and as a client with a list for a pool, takes 20,600, which is 1.3 × nginx; so no proxy that is made of \
               hyper takes as little as nginx. The pool adds 5,400 to that, `ForwardLayer` 700, sending requests again and bodies of one type \
               2,900, and axum 400. Of our 30,000, hyper has 26 %, tokio 19, memory that is allocated and copied 15, this crate 8, and http's \
               types 8.\n\nTwo threads of one runtime also wake each other, by up to 0.2 `futex` calls for a request, and tasks and their \
               memory go from one to the other; with a runtime for each thread neither happens. And the slower a proxy is, the \
               more often do the callers and the server sleep until it writes, which then takes longer: 0.5 times for a request on one \
               runtime, 0.3 on two, and 0.2 with nginx (by perf).",
        bench: "headline",
        is_part: |it| it.case == "no delay",
        column: |it| &it.unit,
    },
    Table {
        title: "Throughput, one thread",
        text: "`throughput`: 50 callers over 50 connections, no delay.",
        bench: "throughput",
        is_part: |it| it.case == "current_thread",
        column: |it| &it.unit,
    },
    Table {
        title: "Throughput, two threads",
        text: "The server shares the cores with them.",
        bench: "throughput",
        is_part: |it| it.case == "multi_thread(2)",
        column: |it| &it.unit,
    },
    Table {
        title: "Throughput over HTTP/2",
        text: "Requests per second on one connection that all callers share, one thread; and of 500 callers on four connections, \
               two threads. hyper-util's legacy client and reqwest have one connection in any case.",
        bench: "throughput",
        is_part: |it| it.case.starts_with("HTTP/2") && it.unit == "requests/s",
        column: |it| &it.case,
    },
    Table {
        title: "GETs that are lost over HTTP/2",
        text: "`lost`: requests without an answer, of 50,000 by 100 callers; in the black hole of 1,000 by 50, where those that \
               are under way are lost to anybody.",
        bench: "lost",
        is_part: |it| it.unit == "lost, GET",
        column: |it| &it.case,
    },
    Table {
        title: "POSTs that are lost over HTTP/2",
        text: "The same, with bodies that can be read once.",
        bench: "lost",
        is_part: |it| it.unit == "lost, POST",
        column: |it| &it.case,
    },
    Table {
        title: "Streams beyond the server's limit",
        text: "`lost`: GETs that were sent when the server's limit was reached, by its count.",
        bench: "lost",
        is_part: |it| it.unit == "beyond limit, GET" && it.case.contains("limit"),
        column: |it| &it.case,
    },
    Table {
        title: "The time of a GET over HTTP/2",
        text: "`lost`: the median in milliseconds, by a server that takes 2 ms.",
        bench: "lost",
        is_part: |it| it.unit == "p50 ms, GET" && it.case.contains("limit"),
        column: |it| &it.case,
    },
    Table {
        title: "Requests by address, in per cent",
        text: "`spread`: 20,000 requests by 100 callers to one name with ten addresses. Neither hyper-util's legacy client nor \
               reqwest has a setting for this.",
        bench: "spread",
        is_part: |it| it.case == "one name",
        column: |it| &it.unit,
    },
    Table {
        title: "TLS 1.3: requests per second",
        text: "`tls`: handshakes with a connection for each request, 4 callers; and bodies of that size over 16 connections that are \
               kept. agent and reqwest have the same configuration of rustls. Server and client share the machine.",
        bench: "tls",
        is_part: |it| it.unit == "requests/s",
        column: |it| &it.case,
    },
    Table {
        title: "TLS 1.3: requests per second, of reqwest",
        text: "The same, as the ratios within rounds.",
        bench: "tls",
        is_part: |it| it.unit == "of reqwest",
        column: |it| &it.case,
    },
    Table {
        title: "TLS 1.3: processor time of the client",
        text: "Microseconds for a request, user and system.",
        bench: "tls",
        is_part: |it| it.unit == "CPU µs",
        column: |it| &it.case,
    },
    Table {
        title: "The tail: 99.9 % are faster",
        text: "`tail`: 200 callers, 50 connections, 10 ms; milliseconds from the time in the schedule to the answer, of those that were \
               answered, at so many times what the server can. Beyond 1 a line without a limit grows for as long as the load lasts.",
        bench: "tail",
        is_part: |it| it.unit == "p99.9 ms",
        column: |it| &it.case,
    },
    Table {
        title: "The tail: 99 % are faster",
        text: "The same.",
        bench: "tail",
        is_part: |it| it.unit == "p99 ms",
        column: |it| &it.case,
    },
    Table {
        title: "The tail: half are faster",
        text: "The same.",
        bench: "tail",
        is_part: |it| it.unit == "p50 ms",
        column: |it| &it.case,
    },
    Table {
        title: "The tail: requests that failed, in per cent",
        text: "Those that were turned away among them. Of twice what the server can, half cannot be answered in time.",
        bench: "tail",
        is_part: |it| it.unit == "failed %",
        column: |it| &it.case,
    },
    Table {
        title: "The tail: answers within 50 ms",
        text: "As a part of what the server can.",
        bench: "tail",
        is_part: |it| it.unit == "good",
        column: |it| &it.case,
    },
    Table {
        title: "Time of one request",
        text: "`request`: one after the other, over a loopback socket and over a stream in memory; the median, as a multiple of \
               hyper alone.",
        bench: "request",
        is_part: |it| it.unit == "to hyper",
        column: |it| &it.case,
    },
    Table {
        title: "Checkout and checkin alone",
        text: "`pool`: nanoseconds for both together.",
        bench: "pool",
        is_part: |it| it.case == "alone" || it.case.starts_with("2 threads"),
        column: |it| &it.case,
    },
    Table {
        title: "Checkout with callers in line",
        text: "`pool`: nanoseconds from one caller to the next, by the number of callers in line.",
        bench: "pool",
        is_part: |it| it.case.ends_with(" in line"),
        column: |it| &it.case,
    },
    Table {
        title: "Checkout with many hosts",
        text: "`pool`: nanoseconds, by the number of hosts that are asked in turn.",
        bench: "pool",
        is_part: |it| it.case.ends_with(" hosts"),
        column: |it| &it.case,
    },
    Table {
        title: "Memory of an idle connection",
        text: "`memory`: bytes for each of 10,000, hyper's own buffers included.",
        bench: "memory",
        is_part: |it| it.case == "idle connection",
        column: |it| &it.unit,
    },
    Table {
        title: "Memory of a crowd of hosts",
        text: "`memory`: 100,000 hosts, asked once each: bytes in use at the most, and when all are quiet.",
        bench: "memory",
        is_part: |it| it.case == "crowd of hosts",
        column: |it| &it.unit,
    },
];

impl Table {
    /// The figures that it shows.
    pub(crate) fn part<'a>(&'a self, figures: &'a Figures) -> impl Iterator<Item = &'a Figure> {
        figures.0.iter().filter(|it| self.has(it))
    }

    pub(crate) fn has(&self, figure: &Figure) -> bool {
        figure.bench == self.bench && (self.is_part)(figure)
    }

    /// What makes its figures.
    pub(crate) fn command(&self) -> String {
        command(self.bench)
    }

    /// None without figures.
    pub(crate) fn markdown(&self, figures: &Figures) -> Option<String> {
        let part: Vec<_> = self.part(figures).collect();
        let (mut rows, mut columns) = (Vec::new(), Vec::new());
        for figure in &part {
            if !rows.contains(&&*figure.peer) {
                rows.push(&*figure.peer);
            }
            if !columns.contains(&(self.column)(figure)) {
                columns.push((self.column)(figure));
            }
        }
        if rows.is_empty() {
            return None;
        }
        let mut text = String::from("| |");
        for column in &columns {
            let _ = write!(text, " {column} |");
        }
        text.push_str("\n|---|");
        text.push_str(&"---:|".repeat(columns.len()));
        text.push('\n');
        for row in rows {
            let _ = write!(text, "| {row} |");
            for column in &columns {
                let found = part
                    .iter()
                    .find(|it| it.peer == row && (self.column)(it) == *column);
                let cell = found.map_or(String::new(), |it| cell(it));
                let _ = write!(text, " {cell} |");
            }
            text.push('\n');
        }
        Some(text)
    }
}

pub(crate) const PACKAGE: &str = "tower-keep-alive-benches";

/// What runs a bench.
pub(crate) fn command(bench: &str) -> String {
    match bench {
        "request" => format!("cargo bench -p {PACKAGE} --bench request"),
        bench => format!("cargo run --release -p {PACKAGE} --bin {bench}"),
    }
}

/// A count; or a median, and within which limits the rounds were.
fn cell(figure: &Figure) -> String {
    let value = number(figure.value);
    match figure.spread {
        Some([least, most]) => format!("{value} ({}–{})", number(least), number(most)),
        None => value,
    }
}

/// With as many digits as say something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        it if it >= 100.0 || it.fract() < 0.005 => thousands(value),
        _ => format!("{value:.2}"),
    }
}

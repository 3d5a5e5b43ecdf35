//! The worst that a server, a network or a caller does, by number (`trust_NN`), each with its figure.
//!
//! `cargo test --test worst_cases -- --nocapture` prints the figures; with `TRUST_FULL=1` the runs are as long as the
//! figures ask for. Test 9, the hard caps under a thousand callers, is `tests/waiting/storm.rs`.
//!
//! Every test ends where it began: counters at rest, no task and no descriptor left ([`environment`] checks that).

#[path = "../support/mod.rs"]
mod support;

mod environment;

mod ends;

mod age;
mod cancel;
mod idle;
mod interim;
mod line;
mod race;
mod shut;
mod soak;

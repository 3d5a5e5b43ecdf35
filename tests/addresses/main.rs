//! One name with many addresses.

#[path = "../support/mod.rs"]
mod support;

mod balance;
mod connecting;
mod dns;
mod ejection;
mod names;
mod spares;
mod spread;
mod trials;
mod visible;
mod what_counts;

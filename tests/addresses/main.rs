//! One name with many addresses.

#[path = "../support/mod.rs"]
mod support;

mod dns;
mod names;
mod spread;
mod visible;

//! One name with many addresses.

#[path = "../support/mod.rs"]
mod support;

mod names;
mod spread;
mod visible;

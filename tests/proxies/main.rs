//! Through proxies: requests in absolute form, and tunnels by CONNECT and by SOCKS.

#[path = "../support/mod.rs"]
mod support;

mod isolation;
mod requests;
mod socks_names;
mod tunnels;

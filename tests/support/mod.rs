//! What tests stand on: a scripted raw HTTP/1 server that counts, connectors that count, and waits that are bounded.
//!
//! Nothing here but `agent` and `tls` know the crate under test. A script says, byte for byte, what one connection does:
//!
//! ```
//! let server = Server::start(|mut conn| async move {
//!     conn.request().await;
//!     conn.respond("ok").await;
//!     conn.fin().await;
//! })
//! .await;
//! ```
//!
//! All of it runs over TCP, or with `TEST_OVER` over Unix sockets (`unix`) or under TLS (`tls`): servers and connectors follow, URLs stay as they
//! are. A test about TCP itself says so by [`only_over_tcp`].
//!
//! With `TEST_OVER=h2` the agents made by [`agent`] speak HTTP/2, by prior knowledge or ALPN, and so do the servers, in memory
//! too; scripts stay as they are, because [`translated`] stands between. A connection has one stream at a time. A test about what
//! HTTP/2 does not have says so by [`not_over_h2`].
//!
//! With `TEST_IO=tiny` the client's end of each connection, in memory too, reads and writes a few bytes at a time: see
//! [`Tiny`]. A test about what comes in one piece says so by [`not_tiny`].
//!
//! For HTTP/2 there are [`http2::Server`](http2::Server), which is this one with scripts of [`frames`].
//!
//! With paused time use `Server::in_memory(script)` and its `connector()`: sockets and paused time do not go together.

// Compiled into every test binary, and each uses a part of it.
#![allow(dead_code, unused_imports)]
// `pub` is what tests may use; `pub(super)` is between these files.
#![allow(unreachable_pub)]

pub mod agent;
mod conn;
mod connector;
mod counting;
pub mod frames;
mod gate;
mod head;
pub mod http2;
mod leaks;
mod listener;
mod memory;
mod over;
mod process;
pub mod proxies;
mod refusing;
mod response;
pub mod script;
mod server;
mod stream;
#[cfg(target_os = "linux")]
mod swallowing;
mod tally;
mod tiny;
pub mod tls;
mod translated;
mod trap;
mod wait;
mod wire;

pub use conn::Conn;
pub use connector::{InMemory, Sockets};
pub use counting::{Counted, CountingConnector};
pub use gate::Gate;
pub use head::Head;
pub use leaks::{client_transports, server_tasks};
pub use memory::MemoryStream;
pub use over::{Over, not_over_h2, not_over_tls, not_over_unix, only_over_tcp, over};
pub use process::alive_tasks;
#[cfg(target_os = "linux")]
pub use process::fd_count;
pub use refusing::RefusingPort;
pub use server::Server;
#[cfg(target_os = "linux")]
pub use swallowing::SwallowingPort;
pub use tiny::{Tiny, not_tiny};
pub use trap::{Fault, TrapConnector};
pub use wait::{eventually, settle};
pub use wire::Wire;

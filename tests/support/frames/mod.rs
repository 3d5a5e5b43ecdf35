//! A raw HTTP/2 server for scripts: it sends any frame, right or wrong, and counts what it is sent.
//!
//! It knows nothing of the crate under test, and speaks over any bytes ([`Io`]). A script says, frame by frame, what one
//! connection does:
//!
//! ```
//! conn.open([(setting::MAX_CONCURRENT_STREAMS, 10)]).await;
//! while let Some(request) = conn.request().await {
//!     conn.respond(request.stream, 200, b"ok").await;
//! }
//! ```
//!
//! [`Behaviour`] has what many tests need: GOAWAY now and then, refusals, limits that change, silence.

// Compiled into programs that use a part of it each.
#![allow(dead_code, unused_imports, unreachable_pub)]

mod behaviour;
mod conn;
mod frame;
mod hpack;
mod log;

pub use behaviour::{Behaviour, GoAway};
pub use conn::{Conn, Io};
pub use frame::{Frame, NO_LAST_STREAM, PREFACE, code, flag, frame, kind, setting, settings};
pub use hpack::{Field, encode};
pub use log::{Log, Request, Seen};

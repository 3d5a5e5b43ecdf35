//! What an agent is as a whole: its books, its status, and the handle to them.

mod connection_status;
mod event;
mod handle;
#[cfg(feature = "metrics")]
mod metrics;
mod prewarm;
mod state;
mod status;
#[cfg(feature = "tracing")]
mod trace;

pub use connection_status::{ConnectionState, ConnectionStatus};
pub use event::{Event, EventKind};
pub use handle::{AgentHandle, Drained};
#[cfg(feature = "metrics")]
pub(crate) use metrics::{OpenConnections, waited};
pub use prewarm::PrewarmError;
pub(crate) use prewarm::Warmed;
pub(crate) use state::{Books, Census, Control, Mode, Warm, Warming};
pub use status::Status;
#[cfg(feature = "tracing")]
pub(crate) use trace::TARGET;

//! An agent as a whole: its counters, its status, and its handle.

mod connection_status;
mod ejection;
mod event;
mod follow_dns;
mod handle;
mod host_settings;
mod learned;
mod left_out;
mod lookup_status;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "metrics")]
mod open_counts;
mod prewarm;
mod protocol_status;
mod spread;
mod state;
mod status;
#[cfg(feature = "tracing")]
mod trace;

pub use connection_status::{AddressStatus, ConnectionState, ConnectionStatus};
pub use ejection::{Ejection, EjectionReason, Outcome};
pub use event::{Event, EventKind};
pub use follow_dns::FollowDns;
pub use handle::{AgentHandle, Drained};
pub(crate) use host_settings::HostOverrides;
pub use host_settings::HostSettings;
pub use learned::LearnedIdleLimit;
pub use left_out::{LeftOut, LeftOutReason};
pub use lookup_status::LookupStatus;
#[cfg(feature = "metrics")]
pub(crate) use metrics::KeyMetrics;
#[cfg(feature = "metrics")]
pub(crate) use open_counts::{OpenCounts, Spoken};
pub use prewarm::PrewarmError;
pub(crate) use prewarm::Prewarmed;
pub use protocol_status::ProtocolStatus;
pub use spread::Spread;
pub(crate) use state::{
    AgentState, KeyCounts, MakingSpare, Mode, PoolControl, Prewarm, Prewarming, Spare,
};
pub use status::Status;
#[cfg(feature = "tracing")]
pub(crate) use trace::{PROTOCOL, TARGET, protocol_version};

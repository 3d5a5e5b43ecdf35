use std::time::Duration;

/// One open connection of an agent; see [`AgentHandle::connections`](crate::AgentHandle::connections).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ConnectionStatus {
    /// Its number ([`ConnectionInfo::id`](crate::ConnectionInfo::id)); `None` while it is connecting.
    pub id: Option<u64>,
    /// What it does.
    pub state: ConnectionState,
    /// How long it has been connected.
    pub age: Duration,
    /// How many exchanges it has carried, one under way included.
    pub uses: u64,
}

/// What an open connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "camelCase"))]
#[non_exhaustive]
pub enum ConnectionState {
    /// It is being made.
    Connecting,
    /// An exchange is on it, or has just been.
    Active,
    /// It waits for a request.
    Idle,
}

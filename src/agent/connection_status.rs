use std::net::SocketAddr;
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
    /// The server's address, or the proxy's; `None` while it is connecting, and where the transport does not know it.
    pub remote_addr: Option<SocketAddr>,
}

/// What the connections of one key to one address are and do; see [`Status::addresses`](crate::Status::addresses).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct AddressStatus {
    /// Connections that are idle.
    pub idle: usize,
    /// Connections in use.
    pub active: usize,
    /// Exchanges under way.
    pub requests: usize,
    /// Exchanges that the connections which are open now have carried, those under way included.
    pub served: u64,
}

impl AddressStatus {
    pub(crate) fn add(&mut self, other: &Self) {
        self.idle += other.idle;
        self.active += other.active;
        self.requests += other.requests;
        self.served += other.served;
    }
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

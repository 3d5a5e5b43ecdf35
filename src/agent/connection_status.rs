use std::net::SocketAddr;
use std::time::Duration;

use crate::agent::LeftOut;

/// One open connection of an agent; see [`AgentHandle::connections`](crate::AgentHandle::connections).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ConnectionStatus {
    /// The connection's number ([`ConnectionInfo::id`](crate::ConnectionInfo::id)); `None` while it is connecting.
    pub id: Option<u64>,
    /// What the connection is doing.
    pub state: ConnectionState,
    /// How long ago it was connected.
    pub age: Duration,
    /// How many exchanges it has carried, including the present one.
    pub uses: u64,
    /// How many exchanges are under way on it: over HTTP/2 its streams in use, over HTTP/1 one at most.
    pub streams: usize,
    /// How many exchanges it can carry at the same time: over HTTP/2 what the server and our own limit allow at present, over
    /// HTTP/1 one. `None` while that is not known yet.
    pub capacity: Option<usize>,
    /// The address of the server, or of the proxy; `None` while it is connecting, and if the transport does not know
    /// it.
    pub remote_addr: Option<SocketAddr>,
}

/// The connections of one key to one address; see [`Status::addresses`](crate::status::Status::addresses).
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
    /// Exchanges on the present connections, including those under way.
    pub served: u64,
    /// The address gets no new connections at present: the last connect has failed, or it is ejected
    /// ([`KeepAliveLayer::eject`](crate::KeepAliveLayer::eject)) and gets no requests either.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "leftOut", skip_serializing_if = "Option::is_none")
    )]
    pub left_out: Option<LeftOut>,
}

impl AddressStatus {
    pub(crate) fn add(&mut self, other: &Self) {
        self.idle += other.idle;
        self.active += other.active;
        self.requests += other.requests;
        self.served += other.served;
        self.left_out = self.left_out.or(other.left_out);
    }
}

/// What an open connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "camelCase"))]
#[non_exhaustive]
pub enum ConnectionState {
    /// It is being made.
    Connecting,
    /// It carries an exchange, or has just done so.
    Active,
    /// It is idle.
    Idle,
    /// It gets no further exchanges, and is closed after those under way: its server has sent GOAWAY over HTTP/2, or it is too
    /// old or was used often enough. It counts in no limit, as far as
    /// [`PoolConfig::max_connections_per_host`](crate::layers::PoolConfig::max_connections_per_host) says.
    Draining,
}

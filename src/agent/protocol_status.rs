use std::fmt;

/// What the connections of one key speak, and how many exchanges they carry; see
/// [`Status::protocols`](crate::status::Status::protocols). Connects under way do not count.
///
/// ```
/// use tower_keep_alive::AgentHandle;
///
/// /// The hosts whose connections carry as many exchanges as they can.
/// fn full(agent: &AgentHandle) -> Vec<String> {
///     let protocols = agent.status().protocols.into_iter();
///     let full = protocols.filter(|(_, it)| it.streams >= it.capacity);
///     full.map(|(key, it)| format!("{key}: {it}")).collect()
/// }
/// # let _ = full;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ProtocolStatus {
    /// Connections of HTTP/1, and those of a [`Poolable`](crate::custom::Poolable) of your own.
    pub http1: usize,
    /// Connections of HTTP/2, those that [drain](crate::status::ConnectionState::Draining) included.
    pub http2: usize,
    /// Those of them that drain: they get no further exchanges, and are closed after those under way.
    pub draining: usize,
    /// Exchanges under way on all of these connections: over HTTP/2 streams in use, over HTTP/1 one for each connection in
    /// use.
    pub streams: usize,
    /// How many exchanges the connections that do not drain can carry at the same time: over HTTP/2 what the server and
    /// [`max_streams_per_connection`](crate::KeepAliveLayer::http2) allow at present (one until the server has said), over
    /// HTTP/1 one for each connection. It is less than `streams` if connections drain, or if a server has lowered its limit
    /// below what is in use.
    pub capacity: usize,
}

impl ProtocolStatus {
    pub(crate) fn add(&mut self, other: &Self) {
        // Named one by one, so that a new number cannot be forgotten here.
        let Self {
            http1,
            http2,
            draining,
            streams,
            capacity,
        } = other;
        self.http1 += http1;
        self.http2 += http2;
        self.draining += draining;
        self.streams += streams;
        // A server may set no limit, and we none either.
        self.capacity = self.capacity.saturating_add(*capacity);
    }
}

/// Such as `3 of 100 streams on 1 connection of HTTP/2`, followed by `, 1 of them draining` if one drains, and by those of
/// HTTP/1.
impl fmt::Display for ProtocolStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = |count| match count {
            1 => "connection",
            _ => "connections",
        };
        let Self {
            http1,
            http2,
            draining,
            streams,
            capacity,
        } = *self;
        write!(f, "{streams} of {capacity} streams on ")?;
        if http2 > 0 {
            write!(f, "{http2} {} of HTTP/2", connections(http2))?;
            if draining > 0 {
                write!(f, ", {draining} of them draining")?;
            }
        }
        if http2 == 0 || http1 > 0 {
            let and = if http2 > 0 { " and " } else { "" };
            write!(f, "{and}{http1} {} of HTTP/1", connections(http1))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_in_words_what_is_carried_and_by_what() {
        let said = |http1, http2, draining| {
            let status = ProtocolStatus {
                http1,
                http2,
                draining,
                streams: 3,
                capacity: 100,
            };
            status.to_string()
        };
        assert_eq!(said(0, 1, 0), "3 of 100 streams on 1 connection of HTTP/2");
        assert_eq!(
            said(0, 2, 1),
            "3 of 100 streams on 2 connections of HTTP/2, 1 of them draining"
        );
        assert_eq!(
            said(1, 2, 0),
            "3 of 100 streams on 2 connections of HTTP/2 and 1 connection of HTTP/1"
        );
        assert_eq!(said(0, 0, 0), "3 of 100 streams on 0 connections of HTTP/1");
    }
}

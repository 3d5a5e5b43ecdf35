//! The local ports of connections, if they are restricted.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports that are used in turn, so that a port is reused as late as possible.
///
/// # Clone
///
/// Clones share their position.
#[derive(Clone, Debug)]
pub(super) struct LocalPorts {
    first: u16,
    last: u16,
    turn: Arc<AtomicU32>,
}

impl LocalPorts {
    /// # Panics
    ///
    /// If the range is empty or has the port 0.
    pub(super) fn new(ports: RangeInclusive<u16>) -> Self {
        let (first, last) = ports.into_inner();
        assert!(
            first > 0 && first <= last,
            "local_ports must be a range of ports from 1 to 65535 that is not empty"
        );
        Self {
            first,
            last,
            turn: Arc::default(),
        }
    }

    /// Each port once, beginning with the next one.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = u16> + use<> {
        let (first, count) = (self.first, u32::from(self.last - self.first) + 1);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let places = (0..count).map(move |step| (turn % count + step) % count);
        // A range of ports has at most 65,535 elements.
        places.map(move |place| first + u16::try_from(place).unwrap_or(0))
    }

    pub(super) fn all_taken(&self) -> io::Error {
        let why = format!(
            "every port from {} to {} is in use: allow more with TcpConnector::local_ports",
            self.first, self.last
        );
        io::Error::new(io::ErrorKind::AddrInUse, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_tried_once_and_the_next_connection_begins_with_the_next() {
        let ports = LocalPorts::new(7..=9);
        let tried = |ports: &LocalPorts| ports.in_turn().collect::<Vec<_>>();
        assert_eq!(tried(&ports), [7, 8, 9]);
        assert_eq!(tried(&ports.clone()), [8, 9, 7]);
        assert_eq!(tried(&ports), [9, 7, 8]);
        assert_eq!(tried(&ports), [7, 8, 9]);
        assert_eq!(tried(&LocalPorts::new(65_535..=65_535)), [65_535]);
        assert_eq!(LocalPorts::new(1..=65_535).in_turn().count(), 65_535);
    }

    #[test]
    fn the_turn_goes_on_after_four_billion_connections() {
        let ports = LocalPorts::new(7..=9);
        ports.turn.store(u32::MAX, Ordering::Relaxed);
        let mut tried: Vec<_> = ports.in_turn().collect();
        tried.sort_unstable();
        assert_eq!(tried, [7, 8, 9]);
    }
}

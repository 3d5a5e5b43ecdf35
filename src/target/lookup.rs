//! Host names for a connector to resolve.

#[cfg(feature = "proxy")]
use std::fmt;
#[cfg(feature = "proxy")]
use std::net::SocketAddr;
#[cfg(feature = "proxy")]
use std::sync::{Arc, OnceLock};

use crate::target::Destination;
use crate::target::route::Family;

/// A host to resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lookup {
    /// A name, or an address without brackets.
    pub(crate) host: String,
    /// The URI's port, or the default of its scheme.
    pub(crate) port: u16,
    /// Whether the URI has a port. If so, the port that the resolver returns is ignored.
    pub(crate) has_port: bool,
    /// Only addresses of this family are used.
    pub(crate) family: Option<Family>,
}

impl Lookup {
    pub(crate) fn of(destination: &Destination, family: Option<Family>) -> Self {
        Self {
            host: destination.host().to_owned(),
            port: destination.port(),
            has_port: destination.has_port(),
            family,
        }
    }
}

/// A second host, which the connector resolves before it connects to the first: the origin, if the connection is to a
/// SOCKS proxy that has to be sent an address.
///
/// Clones share the answer.
#[cfg(feature = "proxy")]
#[derive(Clone)]
pub(crate) struct SideLookup(Arc<Side>);

#[cfg(feature = "proxy")]
struct Side {
    lookup: Lookup,
    found: OnceLock<Vec<SocketAddr>>,
}

#[cfg(feature = "proxy")]
impl SideLookup {
    pub(crate) fn new(lookup: Lookup) -> Self {
        let found = OnceLock::new();
        Self(Arc::new(Side { lookup, found }))
    }

    pub(crate) fn lookup(&self) -> &Lookup {
        &self.0.lookup
    }

    /// Stores the addresses; the first answer is kept.
    pub(crate) fn answer(&self, found: Vec<SocketAddr>) {
        self.0.found.get_or_init(|| found);
    }

    /// The addresses, in the order in which to try them. `None`: the connector has no resolver, or does not support the
    /// request.
    pub(crate) fn found(&self) -> Option<&[SocketAddr]> {
        self.0.found.get().map(Vec::as_slice)
    }
}

#[cfg(feature = "proxy")]
impl fmt::Debug for SideLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SideLookup").field(self.lookup()).finish()
    }
}

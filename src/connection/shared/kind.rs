//! Whether a `ConnShared` belongs to a connection or to one use of it, and the state that only this kind has.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use crate::connection::outcome_observer::OutcomeObserver;
#[cfg(feature = "http2")]
use crate::connection::shared::Streams;
use crate::connection::shared::{ConnShared, OBSERVED};
use crate::connection::timings::ConnectTimes;
#[cfg(feature = "tls")]
use crate::connection::tls_info::TlsInfo;
#[cfg(feature = "http2")]
use crate::sync::atomic::AtomicU32;
use crate::sync::atomic::Ordering;

#[derive(Debug, Default)]
pub(crate) struct Addresses {
    pub(crate) local: Option<SocketAddr>,
    pub(crate) remote: Option<SocketAddr>,
    /// Who is told how the exchanges with the remote address end.
    pub(crate) observer: ObserverSlot,
}

/// Empty unless addresses are ejected.
#[derive(Default)]
pub(crate) struct ObserverSlot(OnceLock<Arc<dyn OutcomeObserver>>);

impl fmt::Debug for ObserverSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObserverSlot")
    }
}

/// What a `ConnShared` belongs to.
#[derive(Debug)]
pub(super) enum Kind {
    Transport(TransportInfo),
    UseOf(UseOf),
}

/// This state belongs to one use of a connection.
#[derive(Debug)]
pub(super) struct UseOf {
    pub(super) connection: Arc<ConnShared>,
    /// The id of the latest stream of this use; 0 without one.
    #[cfg(feature = "http2")]
    pub(super) stream: AtomicU32,
}

// Every connection has one.
#[cfg(all(test, target_os = "linux", target_pointer_width = "64"))]
const _: () = assert!(size_of::<Kind>() <= 48);

/// What a transport reported when it was made.
#[derive(Debug)]
pub(crate) struct TransportInfo {
    /// Boxed; `None` if the transport has no addresses.
    pub(crate) addresses: Option<Box<Addresses>>,
    pub(crate) times: ConnectTimes,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsInfo>,
    /// `None` if the connection has no streams.
    #[cfg(feature = "http2")]
    pub(crate) streams: Option<Arc<Streams>>,
}

#[cfg(test)]
impl TransportInfo {
    /// Of a connection to this address.
    pub(crate) fn to(remote: SocketAddr) -> Self {
        Self {
            addresses: Some(Box::new(Addresses {
                remote: Some(remote),
                ..Addresses::default()
            })),
            times: ConnectTimes::NONE,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "http2")]
            streams: None,
        }
    }
}

impl ConnShared {
    /// Sets who is told how the exchanges of this connection end; without a remote address nobody is.
    pub(crate) fn set_outcome_observer(&self, observer: Arc<dyn OutcomeObserver>) {
        let addresses = self.transport().and_then(|it| it.addresses.as_ref());
        if let Some(addresses) = addresses {
            // A second pool above the first may keep the same connection: the first observer is kept.
            let _ = addresses.observer.0.set(observer);
            self.set_observed();
        }
    }

    pub(super) fn set_observed(&self) {
        self.peer.fetch_or(OBSERVED, Ordering::Release);
    }

    /// Whether somebody is told how its exchanges end. A use knows this itself.
    #[inline]
    pub(crate) fn is_observed(&self) -> bool {
        self.peer.load(Ordering::Acquire) & OBSERVED != 0
    }

    pub(crate) fn outcome_observer(&self) -> Option<&dyn OutcomeObserver> {
        let addresses = self.transport()?.addresses.as_ref()?;
        Some(&**addresses.observer.0.get()?)
    }
}

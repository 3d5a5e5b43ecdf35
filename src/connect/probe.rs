use std::any::Any;
use std::fmt;
use std::sync::Arc;

#[cfg(feature = "tls")]
use crate::connect::MaybeTls;
use crate::connect::Tcp;
#[cfg(unix)]
use crate::connect::Unix;
use crate::poolable::Liveness;

/// A look at a transport that is in use elsewhere: whether it was closed, or written to unasked, while it was idle.
///
/// tokio remembers what it last heard about a socket, and a busy runtime hears late. So a connection that a server has
/// closed, or has sent a stray response on, can look open for as long as the runtime's threads have other things to do.
/// A look asks the socket itself, and takes nothing from it.
#[derive(Clone)]
pub struct Probe(Arc<dyn Fn() -> Liveness + Send + Sync>);

impl Probe {
    /// A probe that looks by `look`, which must not block.
    pub fn new(look: impl Fn() -> Liveness + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }

    /// Looks now.
    #[must_use]
    #[inline]
    pub fn look(&self) -> Liveness {
        (self.0)()
    }

    /// The probe of a transport that is known here.
    pub(crate) fn find(transport: &dyn Any) -> Option<Self> {
        #[cfg(unix)]
        if let Some(unix) = transport.downcast_ref::<Unix>() {
            return Some(unix.probe());
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = transport.downcast_ref::<MaybeTls<Tcp>>() {
            return Some(tls.probe());
        }
        // Through a proxy that is spoken with under TLS.
        #[cfg(feature = "tls")]
        if let Some(tls) = transport.downcast_ref::<MaybeTls<MaybeTls<Tcp>>>() {
            return Some(tls.probe_with(MaybeTls::probe));
        }
        #[cfg(all(unix, feature = "tls"))]
        if let Some(tls) = transport.downcast_ref::<MaybeTls<Unix>>() {
            return Some(tls.probe());
        }
        transport.downcast_ref::<Tcp>().map(Tcp::probe)
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}

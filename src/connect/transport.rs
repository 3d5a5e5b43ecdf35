//! What transports report about themselves.

use std::any::Any;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

#[cfg(unix)]
use crate::connect::Unix;
#[cfg(feature = "tls")]
use crate::connect::socket::Halves;
use crate::connect::{DefaultTransport, Probe, Tcp};
#[cfg(feature = "tls")]
use crate::connect::{MaybeTls, Socket};
use crate::connection::shared::Addresses;
#[cfg(feature = "tls")]
use crate::connection::tls_info::TlsInfo;

/// What a transport reports about itself. Every method has a default: nothing.
pub(crate) trait Transport {
    /// A probe for the transport while its driver owns it.
    fn probe(&self) -> Option<Probe> {
        None
    }

    /// The addresses of both ends.
    fn addresses(&self) -> Addresses {
        Addresses::default()
    }

    /// The protocol that was negotiated for it.
    #[cfg(feature = "http2")]
    fn negotiated(&self) -> Negotiated {
        Negotiated::Untold
    }

    /// What its own TLS handshake negotiated.
    #[cfg(feature = "tls")]
    fn tls_info(&self) -> Option<TlsInfo> {
        None
    }
}

/// The protocol that both ends of a transport have negotiated.
#[cfg(feature = "http2")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Negotiated {
    /// Nothing was negotiated, or the result is unknown.
    Untold,
    /// The server chose none of the protocols that it was offered.
    Nothing,
    Http1,
    Http2,
}

#[cfg(all(feature = "http2", feature = "tls"))]
impl Negotiated {
    /// A server that chooses a protocol that was not offered fails in the handshake.
    fn of_alpn(chosen: Option<&[u8]>) -> Self {
        match chosen {
            None => Self::Nothing,
            Some(b"h2") => Self::Http2,
            Some(_) => Self::Http1,
        }
    }
}

/// The transport as a `Transport`, if its type is known. This is the only list of those types.
pub(crate) fn known(transport: &dyn Any) -> Option<&dyn Transport> {
    macro_rules! first_of {
        ($($(#[$condition:meta])? $type:ty),+ $(,)?) => {
            $($(#[$condition])?
            if let Some(known) = transport.downcast_ref::<$type>() {
                return Some(known);
            })+
        };
    }
    first_of!(
        DefaultTransport,
        Tcp,
        TcpStream,
        // hyper-util's `HttpConnector` in a `UriConnector`.
        TokioIo<TokioIo<TcpStream>>,
        #[cfg(unix)]
        Unix,
        #[cfg(feature = "tls")]
        MaybeTls<Tcp>,
        // Through a proxy that is reached by TLS.
        #[cfg(feature = "tls")]
        MaybeTls<MaybeTls<Tcp>>,
        // `TlsLayer` over connectors that make tokio's sockets, bare or for hyper.
        #[cfg(feature = "tls")]
        MaybeTls<TcpStream>,
        #[cfg(feature = "tls")]
        MaybeTls<TokioIo<TokioIo<TcpStream>>>,
        #[cfg(all(unix, feature = "tls"))]
        MaybeTls<Unix>,
        #[cfg(all(unix, feature = "tls"))]
        MaybeTls<MaybeTls<Unix>>,
    );
    None
}

/// The probe of a transport of any type, if it has one.
pub(crate) fn probe(transport: &dyn Any) -> Option<Probe> {
    known(transport)?.probe()
}

/// The protocol that was negotiated on a transport of any type.
#[cfg(feature = "http2")]
pub(crate) fn negotiated(transport: &dyn Any) -> Negotiated {
    known(transport).map_or(Negotiated::Untold, Transport::negotiated)
}

impl Transport for Tcp {
    fn probe(&self) -> Option<Probe> {
        Some(Self::probe(self))
    }

    fn addresses(&self) -> Addresses {
        addresses(self.stream())
    }
}

impl Transport for TcpStream {
    fn addresses(&self) -> Addresses {
        addresses(self)
    }
}

impl Transport for TokioIo<TokioIo<TcpStream>> {
    fn addresses(&self) -> Addresses {
        addresses(self.inner().inner())
    }
}

/// The addresses of a Unix socket are paths, and the client's has none.
#[cfg(unix)]
impl Transport for Unix {
    fn probe(&self) -> Option<Probe> {
        Some(Self::probe(self))
    }
}

#[cfg(feature = "tls")]
impl<S: Halves> Transport for MaybeTls<Socket<S>>
where
    Socket<S>: Transport,
{
    fn probe(&self) -> Option<Probe> {
        Some(Self::probe(self))
    }

    fn addresses(&self) -> Addresses {
        self.with_transport(Transport::addresses)
    }

    #[cfg(feature = "http2")]
    fn negotiated(&self) -> Negotiated {
        chosen(self)
    }

    fn tls_info(&self) -> Option<TlsInfo> {
        Self::tls_info(self)
    }
}

/// Transports that have no probe, because nothing but them can reach their socket.
#[cfg(feature = "tls")]
trait Unprobed: Transport {}

#[cfg(feature = "tls")]
impl Unprobed for TcpStream {}

#[cfg(feature = "tls")]
impl Unprobed for TokioIo<TokioIo<TcpStream>> {}

#[cfg(feature = "tls")]
impl<IO: Unprobed> Transport for MaybeTls<IO> {
    fn addresses(&self) -> Addresses {
        self.with_transport(Transport::addresses)
    }

    #[cfg(feature = "http2")]
    fn negotiated(&self) -> Negotiated {
        chosen(self)
    }

    fn tls_info(&self) -> Option<TlsInfo> {
        Self::tls_info(self)
    }
}

/// The outer TLS is the origin's; the inner one belongs to the proxy.
#[cfg(feature = "tls")]
impl<IO> Transport for MaybeTls<MaybeTls<IO>>
where
    MaybeTls<IO>: Transport + Send + 'static,
{
    fn probe(&self) -> Option<Probe> {
        let below = self.with_transport(Transport::probe)?;
        Some(self.probe_with(|_| below))
    }

    fn addresses(&self) -> Addresses {
        self.with_transport(Transport::addresses)
    }

    #[cfg(feature = "http2")]
    fn negotiated(&self) -> Negotiated {
        chosen(self)
    }

    fn tls_info(&self) -> Option<TlsInfo> {
        Self::tls_info(self)
    }
}

/// The addresses of a stream, if it is still open.
fn addresses(stream: &TcpStream) -> Addresses {
    Addresses {
        local: stream.local_addr().ok(),
        remote: stream.peer_addr().ok(),
        ..Addresses::default()
    }
}

#[cfg(all(feature = "http2", feature = "tls"))]
fn chosen<IO>(transport: &MaybeTls<IO>) -> Negotiated {
    match transport.tls_connection() {
        Some(tls) => Negotiated::of_alpn(tls.alpn_protocol()),
        None => Negotiated::Untold,
    }
}

//! Begins HTTP/2 on a transport.

use std::sync::Arc;

use http::uri::Scheme;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connect::Probe;
use crate::connection::lifespan::Lifespan;
use crate::error::BoxError;
use crate::http2::driver::Driver;
use crate::http2::head::Origin;
use crate::http2::wire::Wire;
use crate::http2::{Http2, Http2Connection, fault};

impl Http2 {
    /// Makes a connection on this transport, and spawns its driver. It does not wait for the server's settings: until
    /// they arrive, the connection is for one use.
    ///
    /// # Errors
    ///
    /// If the preface could not be written.
    ///
    /// # Cancel safety
    ///
    /// Dropping it closes the transport.
    pub(crate) async fn handshake<IO, B>(
        self,
        transport: IO,
        probe: Option<Probe>,
        mut lifespan: Lifespan,
    ) -> Result<Http2Connection<B>, BoxError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let guard = lifespan
            .take_transport_guard()
            .expect("a new lifespan has its guard");
        let shared = Arc::new(self.shared(lifespan.shared().clone()));
        let wire = Wire::new(transport, guard, shared.clone(), self.max_fields());
        let handshake = self.builder().handshake(wire).await;
        let (sender, connection) = handshake.map_err(|error| fault::of(error, &shared))?;
        let task = tokio::spawn(Driver::new(connection, shared.clone(), self.pings()));
        lifespan.set_driver(task.abort_handle());
        let origin = Arc::new(Origin::new(scheme(&lifespan)));
        Ok(Http2Connection::new(
            sender, shared, origin, probe, lifespan,
        ))
    }
}

/// The scheme, if no pool has set it.
fn scheme(lifespan: &Lifespan) -> Scheme {
    #[cfg(feature = "tls")]
    if let Some(transport) = lifespan.shared().transport()
        && transport.tls.is_some()
    {
        return Scheme::HTTPS;
    }
    let _ = lifespan;
    Scheme::HTTP
}

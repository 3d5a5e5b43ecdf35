use std::any::Any;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
#[cfg(feature = "http2")]
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::Body;
use tower::make::MakeConnection;
use tower_service::Service;

#[cfg(feature = "http2")]
use crate::connect::side_by_side;
use crate::connect::{Probe, times, transport};
use crate::connection::lifespan::Lifespan;
use crate::connection::shared::TransportInfo;
use crate::error::BoxError;
use crate::handshake::HttpConnection;
#[cfg(feature = "http2")]
use crate::handshake::choice::{Spoken, choose};
use crate::handshake::layer::Settings;
use crate::target::key::KeyRef;
use crate::target::protocol::Protocol;
use crate::target::route::Route;
use crate::target::{Internal, Target};

/// Makes HTTP connections on the transports of `M`.
///
/// Each connection is driven by a task of its own, which ends with the connection; aborting the task ends the
/// connection at once.
pub struct Handshake<M, B> {
    inner: M,
    settings: Settings,
    body: PhantomData<fn(B)>,
}

impl<M, B> Handshake<M, B> {
    pub(super) fn new(inner: M, settings: Settings) -> Self {
        Self {
            inner,
            settings,
            body: PhantomData,
        }
    }

    /// The connector.
    pub const fn get_ref(&self) -> &M {
        &self.inner
    }

    /// The connector.
    pub const fn get_mut(&mut self) -> &mut M {
        &mut self.inner
    }

    /// The connector.
    pub fn into_inner(self) -> M {
        self.inner
    }
}

impl<M, T, B> Service<T> for Handshake<M, B>
where
    M: MakeConnection<T>,
    M::Connection: Unpin + Send + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    T: Target,
{
    type Response = HttpConnection<B>;
    type Error = BoxError;
    type Future = HandshakeFuture<B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut target: T) -> HandshakeFuture<B> {
        let settings = self.settings.clone();
        let protocol = settings.protocol_for(&target.key());
        target.offer(Internal::NEW, protocol);
        #[cfg(feature = "http2")]
        if settings.race_connects || protocol == Protocol::Http1 {
            side_by_side::signal();
        }
        #[cfg(feature = "http2")]
        let host = target.key().host().to_owned();
        let connecting = self.inner.make_connection(target);
        HandshakeFuture(Box::pin(async move {
            let (connected, times) = times::measured(connecting).await;
            let transport = connected.map_err(Into::into)?;
            #[cfg(feature = "http2")]
            let spoken = choose(protocol, (settings.negotiated)(&transport), &host)?;
            let probe = (settings.probe)(&transport as &dyn Any);
            let lifespan = Lifespan::new();
            let known = transport::known(&transport);
            lifespan.shared().set_transport(TransportInfo {
                addresses: known.map(|it| Box::new(it.addresses())),
                times,
                #[cfg(feature = "tls")]
                tls: known.and_then(|it| it.tls_info()),
                #[cfg(feature = "http2")]
                streams: (spoken == Spoken::Http2).then(Arc::default),
            });
            if let Some(closer) = probe.as_ref().and_then(Probe::closer) {
                lifespan.shared().set_closer(closer);
            }
            #[cfg(feature = "http2")]
            if spoken == Spoken::Http2 {
                lifespan.shared().set_http2();
                let max = settings.http1.max_interim_responses;
                let http2 = settings.http2.max_interim_responses(max);
                let connection = http2.handshake(transport, probe, lifespan);
                return Ok(HttpConnection::http2(connection.await?));
            }
            let connection = settings.http1.handshake(transport, probe, lifespan);
            Ok(HttpConnection::http1(connection.await?))
        }))
    }
}

impl Settings {
    /// Which protocols may be spoken on a connection of this key.
    fn protocol_for(&self, key: &KeyRef<'_>) -> Protocol {
        let route = key.get_route().and_then(Route::protocol);
        let protocol = route.unwrap_or(self.protocol);
        match key.is_https() {
            true => protocol,
            false => protocol.in_the_clear(),
        }
    }
}

impl<M: Clone, B> Clone for Handshake<M, B> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.settings.clone())
    }
}

impl<M: fmt::Debug, B> fmt::Debug for Handshake<M, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// Resolves to an HTTP connection. Boxed, because hyper's handshake has no name; connects are rare.
///
/// # Cancel safety
///
/// Dropping it cancels the connect.
pub struct HandshakeFuture<B>(
    Pin<Box<dyn Future<Output = Result<HttpConnection<B>, BoxError>> + Send>>,
);

impl<B> Future for HandshakeFuture<B> {
    type Output = Result<HttpConnection<B>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<B> fmt::Debug for HandshakeFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandshakeFuture")
    }
}

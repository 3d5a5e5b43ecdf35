use std::any::Any;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::Body;
use tower::make::MakeConnection;
use tower_service::Service;

use crate::connect::{Probe, times, transport};
use crate::connection::lifespan::Lifespan;
use crate::connection::shared::TransportInfo;
use crate::error::BoxError;
use crate::handshake::HttpConnection;
use crate::handshake::layer::Settings;

/// Makes HTTP/1 connections on the transports of `M`.
///
/// hyper's connection runs in a task of its own, which ends with the connection, and ends it when it has to end at
/// once.
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
{
    type Response = HttpConnection<B>;
    type Error = BoxError;
    type Future = HandshakeFuture<B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: T) -> HandshakeFuture<B> {
        let connecting = self.inner.make_connection(target);
        let Settings { http1, probe } = self.settings.clone();
        HandshakeFuture(Box::pin(async move {
            let (connected, times) = times::measured(connecting).await;
            let transport = connected.map_err(Into::into)?;
            let probe = probe(&transport as &dyn Any);
            let lifespan = Lifespan::new();
            let known = transport::known(&transport);
            lifespan.shared().set_transport(TransportInfo {
                addresses: known.map(|it| Box::new(it.addresses())),
                times,
                #[cfg(feature = "tls")]
                tls: known.and_then(|it| it.tls_info()),
            });
            if let Some(closer) = probe.as_ref().and_then(Probe::closer) {
                lifespan.shared().set_closer(closer);
            }
            let connection = http1.handshake(transport, probe, lifespan).await?;
            Ok(HttpConnection::http1(connection))
        }))
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

/// Resolves to an HTTP/1 connection. Boxed: hyper gives its handshake no name, and connecting is rare.
///
/// # Cancel safety
///
/// Dropping it gives up the connect.
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

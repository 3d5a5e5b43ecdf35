//! Begins HTTP/1 on a transport.

use std::fmt;

use http_body::Body;
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connect::Probe;
use crate::connection::lifespan::Lifespan;
use crate::error::BoxError;
use crate::http1::Http1Connection;
use crate::http1::driver::Driver;
use crate::http1::interim;
use crate::http1::transport::Transport;

/// The settings of all connections of one layer.
#[derive(Clone)]
pub(crate) struct Http1 {
    /// `None`: hyper's defaults.
    builder: Option<Builder>,
    /// Over HTTP/2 as well.
    pub(crate) max_interim_responses: usize,
    /// `None`: the setting of `builder`.
    max_response_fields: Option<usize>,
}

/// The most fields that an [`http::HeaderMap`] can have.
const MOST_FIELDS: usize = 1 << 15;

impl Http1 {
    pub(crate) fn new() -> Self {
        Self {
            builder: None,
            max_interim_responses: interim::DEFAULT_MAX,
            max_response_fields: None,
        }
    }

    /// Sets hyper's own settings.
    pub(crate) fn set_builder(&mut self, builder: Builder) {
        self.builder = Some(builder);
    }

    pub(crate) fn set_max_response_fields(&mut self, max: usize) {
        self.max_response_fields = Some(max);
    }

    /// Sets the limit unless the user has set it, or may have set it by a builder, which does not tell.
    pub(crate) fn default_max_response_fields(&mut self, max: usize) {
        if self.builder.is_none() {
            self.max_response_fields.get_or_insert(max);
        }
    }

    /// hyper's builder, with the settings beside it.
    fn builder(&self) -> Builder {
        let mut http1 = self.builder.clone().unwrap_or_else(Builder::new);
        if let Some(max) = self.max_response_fields {
            // hyper allocates room for all of them, and a header map cannot hold more.
            http1.max_headers(max.min(MOST_FIELDS));
        }
        http1
    }

    /// Makes a connection on this transport, and spawns its driver.
    pub(crate) async fn handshake<IO, B>(
        self,
        transport: IO,
        probe: Option<Probe>,
        mut lifespan: Lifespan,
    ) -> Result<Http1Connection<B>, BoxError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        B: Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let guard = lifespan
            .take_transport_guard()
            .expect("a new lifespan has its guard");
        let transport = Transport::new(transport, guard, self.max_interim_responses);
        let handshake = self.builder().handshake(TokioIo::new(transport));
        let (sender, connection) = handshake.await?;
        let shared = lifespan.shared().clone();
        let task = tokio::spawn(Driver::new(connection.with_upgrades(), shared));
        lifespan.set_driver(task.abort_handle());
        Ok(Http1Connection::new(sender, probe, lifespan))
    }
}

impl fmt::Debug for Http1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1")
            .field("builder", &self.builder)
            .field("max_interim_responses", &self.max_interim_responses)
            .field("max_response_fields", &self.max_response_fields)
            .finish()
    }
}

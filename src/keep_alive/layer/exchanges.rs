//! What is done for each request and its response.

use std::time::Duration;

use crate::keep_alive::KeepAliveLayer;
use crate::target::route::Route;

/// # Requests and responses
impl<B> KeepAliveLayer<B> {
    /// The [`Route`] for every request without a route of its own; see [`ExchangeLayer::route`](crate::layers::ExchangeLayer::route). Default: none.
    ///
    /// Use it instead of a request extension if a layer above sends requests itself, for example after a redirect; see
    /// [the recipe](crate::guides::recipes#redirects). For [`AgentHandle::prewarm`](crate::AgentHandle::prewarm) add the route to the target
    /// ([`Destination::with_route`](crate::connect::Destination::with_route)).
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http_body_util::Empty;
    /// use tower::ServiceBuilder;
    /// use tower_keep_alive::connect::TcpConnector;
    /// use tower_keep_alive::{KeepAlive, KeepAliveLayer, extensions::{Family, Route}};
    ///
    /// let route = Route::new().with_family(Family::V4);
    /// let client: KeepAlive<TcpConnector, Empty<Bytes>> = ServiceBuilder::new()
    ///     .layer(KeepAliveLayer::new().route(route))
    ///     .service(TcpConnector::new());
    /// # let _ = client;
    /// ```
    pub fn route(mut self, route: Route) -> Self {
        self.settings.exchange = self.settings.exchange.route(route);
        self
    }

    /// How long a whole exchange may take, from the first poll of its future to the end of the response body; see
    /// [`ExchangeLayer::request_timeout`](crate::layers::ExchangeLayer::request_timeout). Default: no limit.
    ///
    /// # Panics
    ///
    /// If `max` is zero.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_keep_alive::KeepAlive;
    ///
    /// let agent = KeepAlive::builder()
    ///     .request_timeout(Duration::from_secs(30))
    ///     .response_timeout(Duration::from_secs(5))
    ///     .build();
    /// # let _ = agent;
    /// ```
    #[doc(alias = "timeout")]
    pub fn request_timeout(mut self, max: Duration) -> Self {
        self.settings.exchange = self.settings.exchange.request_timeout(max);
        self
    }

    /// How long the head of a response may take after the request was sent (Go: `ResponseHeaderTimeout`);
    /// see [`ExchangeLayer::response_timeout`](crate::layers::ExchangeLayer::response_timeout). Default: no limit.
    ///
    /// # Panics
    ///
    /// If `max` is zero.
    #[doc(alias = "ResponseHeaderTimeout")]
    pub fn response_timeout(mut self, max: Duration) -> Self {
        self.settings.exchange = self.settings.exchange.response_timeout(max);
        self
    }

    /// How long the body of a request with `Expect: 100-continue` waits for the server's 100; see
    /// [`ExchangeLayer::expect_continue_timeout`](crate::layers::ExchangeLayer::expect_continue_timeout). Default: 1 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_keep_alive::KeepAliveLayer;
    ///
    /// let layer = KeepAliveLayer::<http_body_util::Full<bytes::Bytes>>::new()
    ///     .expect_continue_timeout(Duration::from_secs(3));
    /// # let _ = layer;
    /// ```
    #[doc(alias = "ExpectContinueTimeout")]
    pub fn expect_continue_timeout(mut self, timeout: Duration) -> Self {
        self.settings.exchange = self.settings.exchange.expect_continue_timeout(timeout);
        self
    }

    /// How much of a response body that is dropped before its end is read, and for how long, to keep its connection; see
    /// [`ExchangeLayer::drain_unread`](crate::layers::ExchangeLayer::drain_unread). Default: off, and the connection is closed.
    pub fn drain_unread(mut self, bytes: u64, time: Duration) -> Self {
        self.settings.exchange = self.settings.exchange.drain_unread(bytes, time);
        self
    }

    /// Whether a request that cannot safely be sent twice always gets a new connection; see
    /// [`ExchangeLayer::fresh_for_non_idempotent`](crate::layers::ExchangeLayer::fresh_for_non_idempotent). Default: false.
    pub fn fresh_for_non_idempotent(mut self, fresh: bool) -> Self {
        self.settings.exchange = self.settings.exchange.fresh_for_non_idempotent(fresh);
        self
    }

    /// Whether responses carry a [`ConnectionInfo`](crate::ConnectionInfo) in their extensions; their bodies always do. See
    /// [`ExchangeLayer::info_in_extensions`](crate::layers::ExchangeLayer::info_in_extensions). Default: true.
    pub fn info_in_extensions(mut self, insert: bool) -> Self {
        self.settings.exchange = self.settings.exchange.info_in_extensions(insert);
        self
    }

    /// Whether to record how long the parts of each exchange take; see [`ExchangeLayer::timings`](crate::layers::ExchangeLayer::timings). Default: false.
    pub fn timings(mut self, record: bool) -> Self {
        self.settings.exchange = self.settings.exchange.timings(record);
        self
    }
}

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use tower_layer::Layer;

use crate::agent::HostOverrides;
use crate::clock::Millis;
use crate::connection::shared::Blame;
use crate::exchange::Exchange;
use crate::exchange::defaults::Defaults;
use crate::target::protocol::Protocol;
use crate::target::route::Route;

/// Makes [`Exchange`] services.
///
/// # Order
///
/// Directly above [`CheckinLayer`](crate::layers::CheckinLayer), whose leases it uses. Above anything else, the stack does not
/// compile.
#[derive(Clone, Debug)]
pub struct ExchangeLayer {
    keep_alive: bool,
    server_hint_margin: Millis,
    info_in_extensions: bool,
    absolute_form: bool,
    protocol: Protocol,
    options: Options,
    defaults: Defaults,
}

/// The settings in each future. They move with the request, so settings that are rarely changed are behind a pointer.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) keep_alive: bool,
    pub(super) server_hint_margin: Millis,
    pub(super) info_in_extensions: bool,
    pub(super) absolute_form: bool,
    pub(super) protocol: Protocol,
    /// `None`: the defaults.
    rare: Option<Arc<RareSettings>>,
}

#[cfg(all(test, target_pointer_width = "64"))]
const _: () = assert!(size_of::<Settings>() <= 16);

/// Settings that differ from their defaults.
#[derive(Debug)]
struct RareSettings {
    options: Options,
    defaults: Defaults,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) fresh_for_non_idempotent: bool,
    pub(super) drain_unread: Drain,
    pub(super) expect_continue_timeout: Millis,
    request_timeout: Millis,
    response_timeout: Millis,
    pub(super) timings: bool,
}

impl Options {
    const DEFAULT: Self = Self {
        fresh_for_non_idempotent: false,
        drain_unread: Drain::NONE,
        expect_continue_timeout: Millis::from_duration(Duration::from_secs(1)),
        request_timeout: Millis::NONE,
        response_timeout: Millis::NONE,
        timings: false,
    };

    pub(super) fn timeouts(&self) -> Timeouts {
        Timeouts {
            request: self.request_timeout.time(),
            response: self.response_timeout.time(),
            blame: Blame {
                request: true,
                response: true,
            },
        }
    }
}

impl Settings {
    /// Whether they require something of each request's connection, or limit its time.
    #[inline]
    pub(super) fn affects_requests(&self) -> bool {
        !self.keep_alive || self.rare.is_some()
    }

    #[inline]
    pub(super) fn options(&self) -> &Options {
        match &self.rare {
            Some(rare) => &rare.options,
            None => &Options::DEFAULT,
        }
    }

    /// The options, if any setting differs from its default.
    #[inline]
    pub(super) fn rare_options(&self) -> Option<&Options> {
        self.rare.as_ref().map(|rare| &rare.options)
    }

    /// Adds the defaults that the request does not set itself.
    #[inline]
    pub(super) fn set_defaults<B>(&self, request: &mut Request<B>) {
        if let Some(rare) = &self.rare {
            rare.defaults.apply(request);
        }
    }
}

/// How long an exchange may take; `Duration::MAX` means no limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) request: Duration,
    pub(super) response: Duration,
    /// Those that the agent sets, and not the request itself.
    pub(super) blame: Blame,
}

impl Timeouts {
    #[inline]
    pub(super) fn are_wanted(self) -> bool {
        self.request != Duration::MAX || self.response != Duration::MAX
    }
}

/// How much of an abandoned body is read to keep its connection, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drain {
    pub(super) bytes: u64,
    pub(super) time: Millis,
}

impl Drain {
    pub(super) const NONE: Self = Self {
        bytes: 0,
        time: Millis::ZERO,
    };

    pub(super) fn is_wanted(self) -> bool {
        self.bytes > 0 || self.time > Millis::ZERO
    }
}

impl ExchangeLayer {
    /// A layer with the defaults of each setting.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            keep_alive: true,
            server_hint_margin: Millis::from_duration(Duration::from_secs(1)),
            info_in_extensions: true,
            absolute_form: false,
            protocol: Protocol::Http1,
            options: Options::DEFAULT,
            defaults: Defaults::NONE,
        }
    }

    /// Whether connections are kept for further requests. With `false`, `Connection: close` is added to every request,
    /// in addition to the caller's own options; not to a request for an upgrade. Default: true.
    #[doc(alias = "keepAlive")]
    #[must_use]
    pub const fn keep_alive(mut self, keep: bool) -> Self {
        self.keep_alive = keep;
        self
    }

    /// How much is subtracted from a server's `Keep-Alive: timeout=N`, for the time that a request travels (Node:
    /// `agentKeepAliveTimeoutBuffer`). If nothing is left, the connection is not kept. Default: 1 s.
    #[doc(alias = "agentKeepAliveTimeoutBuffer")]
    #[must_use]
    pub const fn server_hint_margin(mut self, margin: Duration) -> Self {
        self.server_hint_margin = Millis::from_duration(margin);
        self
    }

    /// Whether responses carry a [`ConnectionInfo`](crate::ConnectionInfo) in their extensions, which costs three allocations;
    /// their bodies always do. Default: true.
    #[must_use]
    pub const fn info_in_extensions(mut self, insert: bool) -> Self {
        self.info_in_extensions = insert;
        self
    }

    /// Whether requests for `http` are sent in absolute form (RFC 9112 §3.2.2), for a connector whose connections lead to a
    /// proxy and not to the origin. Default: false.
    #[must_use]
    pub const fn absolute_form(mut self, absolute: bool) -> Self {
        self.absolute_form = absolute;
        self
    }

    /// Whether a request that cannot safely be sent twice always gets a new connection: one whose method is not idempotent
    /// (RFC 9110 §9.2.2), without an `Idempotency-Key` or `X-Idempotency-Key`. Such a request never meets a connection that
    /// the server is just closing, but pays for a connect. Where connections speak HTTP/2 it shares them as others do: their
    /// servers say which requests they have not taken, and those are sent again. Default: false.
    #[must_use]
    pub const fn fresh_for_non_idempotent(mut self, fresh: bool) -> Self {
        self.options.fresh_for_non_idempotent = fresh;
        self
    }

    /// Which versions of HTTP the connections speak; use the same value as for
    /// [`HandshakeLayer::protocol`](crate::layers::HandshakeLayer::protocol) below. Default: HTTP/1 only.
    ///
    /// # The version of a request
    ///
    /// - A request of [`Version::HTTP_2`](http::Version::HTTP_2) is sent over HTTP/2 or fails with an error for which
    ///   [`is_protocol`](crate::Error::is_protocol) is true. With [`Protocol`]`::Auto` and without TLS, its connection
    ///   speaks HTTP/2 by prior knowledge.
    /// - [`Version::HTTP_11`](http::Version::HTTP_11) requires nothing: it is the default of every [`http::Request`],
    ///   so it does not exclude HTTP/2. [`Route::with_protocol`] can.
    /// - A request of [`Version::HTTP_10`](http::Version::HTTP_10), a `CONNECT`, and a request with `Upgrade` are sent
    ///   over HTTP/1. CONNECT with `:protocol` (RFC 8441) is not supported.
    #[must_use]
    pub const fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// The [`Route`] for every request without a route of its own. A request with an empty route (`Route::new()`) has none.
    /// Default: none.
    ///
    /// The route also applies to requests that a layer above sends itself, such as after a redirect, where the extensions of
    /// the first request may be lost.
    ///
    /// ```
    /// use std::net::Ipv4Addr;
    /// use tower_keep_alive::{layers::ExchangeLayer, extensions::Route};
    ///
    /// let route = Route::new().with_local_address(Ipv4Addr::LOCALHOST.into());
    /// let layer = ExchangeLayer::new().route(route);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn route(mut self, route: Route) -> Self {
        self.defaults.set_route(route);
        self
    }

    /// How long the body of a request with `Expect: 100-continue` waits for the server's 100; after that the body is sent
    /// (RFC 9110 §10.1.1; Go: `ExpectContinueTimeout`, curl: `--expect100-timeout`). If the server sends a final response
    /// instead, the body is not sent, and the connection is closed after the response. A server that does not support the
    /// field responds with 417: send the request again without the field. Zero does not wait. Default: 1 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_keep_alive::layers::ExchangeLayer;
    ///
    /// let layer = ExchangeLayer::new().expect_continue_timeout(Duration::from_secs(3));
    /// # let _ = layer;
    /// ```
    #[doc(alias = "ExpectContinueTimeout")]
    #[must_use]
    pub const fn expect_continue_timeout(mut self, timeout: Duration) -> Self {
        self.options.expect_continue_timeout = Millis::from_duration(timeout);
        self
    }

    /// Limits how long a whole exchange may take, from the first poll of its future to the end of the response body:
    /// the wait in the queue, the connect, the request and the response, and whatever the agent sends again by itself
    /// (reqwest's and undici's total timeout). An exchange that takes longer fails with
    /// [`TimeoutKind::Request`](crate::TimeoutKind), and its connection is closed, also if nobody reads the response
    /// body. Over HTTP/2 the stream is reset; the connection is kept, and asked by a PING before it gets new requests.
    /// [`RequestTimeout`](crate::extensions::RequestTimeout) sets another value for one request. Default: no limit.
    ///
    /// After an upgrade, the streams have no limit. Once the request is sent, the connection's driver enforces the
    /// limit, as the driver of [`HandshakeLayer`](crate::layers::HandshakeLayer) does.
    ///
    /// # Panics
    ///
    /// If `max` is zero: every exchange would fail.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_keep_alive::layers::ExchangeLayer;
    ///
    /// let layer = ExchangeLayer::new().request_timeout(Duration::from_secs(30));
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub const fn request_timeout(mut self, max: Duration) -> Self {
        assert!(
            !max.is_zero(),
            "request_timeout must not be zero: use Duration::MAX for no limit"
        );
        self.options.request_timeout = Millis::from_duration(max);
        self
    }

    /// How long the head of the response may take after the request was sent, including its body (Go:
    /// `ResponseHeaderTimeout`). An exchange that waits longer fails with [`TimeoutKind::Response`](crate::TimeoutKind), and
    /// its connection is closed. Interim responses (1xx) do not extend the time.
    ///
    /// Over HTTP/2 the stream is reset; the connection is kept, and asked by a PING before it gets new requests. The time
    /// begins when all of the body was written, but for the last frames, which may wait for the transport; what the operating
    /// system buffers counts as sent. A server that opens no window is a silent one: the
    /// [active timeout](crate::layers::ActiveTimeoutLayer) ends the exchange.
    ///
    /// [`ResponseTimeout`](crate::extensions::ResponseTimeout) sets another value for one request. Default: no limit.
    ///
    /// The connection's driver enforces the limit, as the driver of [`HandshakeLayer`](crate::layers::HandshakeLayer) does.
    ///
    /// # Panics
    ///
    /// If `max` is zero: every exchange would fail.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_keep_alive::layers::ExchangeLayer;
    ///
    /// let layer = ExchangeLayer::new().response_timeout(Duration::from_secs(5));
    /// # let _ = layer;
    /// ```
    #[doc(alias = "ResponseHeaderTimeout")]
    #[must_use]
    pub const fn response_timeout(mut self, max: Duration) -> Self {
        assert!(
            !max.is_zero(),
            "response_timeout must not be zero: use Duration::MAX for no limit"
        );
        self.options.response_timeout = Millis::from_duration(max);
        self
    }

    /// Whether to record how long the parts of each exchange take, for
    /// [`ConnectionInfo::timings`](crate::ConnectionInfo::timings). With the feature `tracing` there is also an event
    /// at level debug at the end of each exchange. Each request costs two more allocations and four reads of the clock.
    /// [`RecordTimings`](crate::extensions::RecordTimings) turns it on for one request. Default: false.
    ///
    /// ```
    /// let layer = tower_keep_alive::layers::ExchangeLayer::new().timings(true);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub const fn timings(mut self, record: bool) -> Self {
        self.options.timings = record;
        self
    }

    /// Reads the rest of a response body that a caller drops before its end, up to `bytes` and for up to `time`, in a task of
    /// its own. If that reaches the end, the connection is kept. A body that is announced to be longer is not read. Default:
    /// off, and the connection is closed unless the rest of the body had already arrived.
    #[must_use]
    pub const fn drain_unread(mut self, bytes: u64, time: Duration) -> Self {
        self.options.drain_unread = Drain {
            bytes,
            time: Millis::from_duration(time),
        };
        self
    }

    /// Adds the hosts with limits of their own for exchanges.
    pub(crate) fn hosts(mut self, hosts: &HostOverrides) -> Self {
        if hosts.limit_exchanges() {
            self.defaults.set_hosts(hosts.clone());
        }
        self
    }

    pub(super) fn settings(&self) -> Settings {
        let is_usual = self.options == Options::DEFAULT && self.defaults.is_none();
        let rare = (!is_usual).then(|| {
            Arc::new(RareSettings {
                options: self.options,
                defaults: self.defaults.clone(),
            })
        });
        Settings {
            keep_alive: self.keep_alive,
            server_hint_margin: self.server_hint_margin,
            info_in_extensions: self.info_in_extensions,
            absolute_form: self.absolute_form,
            protocol: self.protocol,
            rare,
        }
    }
}

impl Default for ExchangeLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<M> Layer<M> for ExchangeLayer {
    type Service = Exchange<M>;

    fn layer(&self, inner: M) -> Exchange<M> {
        Exchange::new(inner, self.settings())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_number_alone_turns_reading_on_on() {
        for (bytes, time, is_wanted) in [(0, 0, false), (1, 0, true), (0, 1, true), (1, 1, true)] {
            let time = Millis::from_duration(Duration::from_millis(time));
            assert_eq!(Drain { bytes, time }.is_wanted(), is_wanted);
        }
    }

    #[test]
    fn a_layer_with_the_defaults_moves_nothing_else_with_a_request() {
        let layer = ExchangeLayer::new();
        assert!(!layer.settings().affects_requests());
        let second = Duration::from_secs(1);
        for (changed, says) in [
            (layer.clone().expect_continue_timeout(second), false),
            (layer.clone().expect_continue_timeout(2 * second), true),
            (layer.clone().drain_unread(1, second), true),
            (layer.clone().timings(true), true),
            (layer.clone().fresh_for_non_idempotent(true), true),
            (layer.clone().request_timeout(second), true),
            (layer.clone().response_timeout(second), true),
            (layer.clone().route(Route::new()), true),
            (layer.keep_alive(false), true),
        ] {
            assert_eq!(changed.settings().affects_requests(), says, "{changed:?}");
        }
    }
}

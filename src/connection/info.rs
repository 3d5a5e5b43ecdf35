//! What an exchange knows about the connection that served it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use tokio::time::Instant;

use crate::clock::Moment;
use crate::connection::lifespan::Lifespan;
use crate::connection::shared::ConnShared;
use crate::connection::timings::{Recorder, Timings};
#[cfg(feature = "tls")]
use crate::connection::tls_info::TlsInfo;
use crate::target::key::Key;

/// Describes the connection that served an exchange. It is on every response body, in the extensions of every response
/// (unless `info_in_extensions(false)` is set), and on every [`Error`](crate::Error) of an exchange that had a
/// connection.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
/// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// # let url = format!("http://{}/", listener.local_addr()?);
/// # tokio::spawn(async { axum::serve(listener, app).await });
/// use tower_keep_alive::KeepAlive;
///
/// let agent = KeepAlive::new();
/// for (is_reused, uses) in [(false, 1), (true, 2)] {
///     let response = agent.get(&url).await?;
///     let connection = response.body().connection().clone();
///     assert_eq!((connection.is_reused(), connection.uses()), (is_reused, uses));
///     // Read to its end, so that the connection is used again.
///     response.into_body().bytes(100).await?;
/// }
/// # Ok(())
/// # }
/// ```
///
/// An info does not keep its connection alive, and neither do its clones.
#[derive(Clone)]
pub struct ConnectionInfo {
    shared: Arc<ConnShared>,
    uses: u64,
    idle: Option<(Instant, Instant)>,
    /// The id of the exchange's stream; 0 without one.
    #[cfg(feature = "http2")]
    stream: u32,
    /// Where the times of this exchange are recorded.
    recorder: Option<Arc<Recorder>>,
}

impl ConnectionInfo {
    #[inline]
    pub(crate) fn of(lifespan: &Lifespan) -> Self {
        Self {
            shared: lifespan.shared().clone(),
            uses: lifespan.uses(),
            idle: lifespan.idle(),
            #[cfg(feature = "http2")]
            stream: lifespan.shared().stream(),
            recorder: None,
        }
    }

    /// For a body that was received on no connection.
    pub(crate) fn none() -> Self {
        Self {
            shared: Arc::new(ConnShared::new()),
            uses: 0,
            idle: None,
            #[cfg(feature = "http2")]
            stream: 0,
            recorder: None,
        }
    }

    pub(crate) fn is_none(&self) -> bool {
        self.uses == 0
    }

    pub(crate) fn with_recorder(mut self, recorder: Arc<Recorder>) -> Self {
        self.recorder = Some(recorder);
        self
    }

    pub(crate) fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_deref()
    }

    /// The connection's number, unique in this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.shared.id()
    }

    /// Whether the connection existed before this exchange: it was idle, came directly from another exchange, or was
    /// made for a caller that no longer needed it. A server may close such a connection at the moment when a request is
    /// sent on it. (Node: `request.reusedSocket`, which is false if the connection came directly from another request.)
    #[must_use]
    #[inline]
    pub fn is_reused(&self) -> bool {
        self.idle.is_some()
    }

    /// How many exchanges the connection has carried, including this one.
    #[must_use]
    pub fn uses(&self) -> u64 {
        self.uses
    }

    /// The version of HTTP on the connection: HTTP/1.1, HTTP/2, or HTTP/1.0 once the server has answered in HTTP/1.0.
    ///
    /// ```
    /// fn is_shared(response: &http::Response<tower_keep_alive::Body>) -> bool {
    ///     response.body().connection().version() == http::Version::HTTP_2
    /// }
    /// # let _ = is_shared;
    /// ```
    #[must_use]
    pub fn version(&self) -> Version {
        self.shared.version()
    }

    /// The number of exchanges that are in progress on the connection now, this one included: over HTTP/2 the streams that
    /// have begun and not ended, over HTTP/1 one at most.
    ///
    /// ```
    /// fn say(response: &http::Response<tower_keep_alive::Body>) {
    ///     let connection = response.body().connection();
    ///     println!("connection {}: {} streams in use", connection.id(), connection.streams());
    /// }
    /// # let _ = say;
    /// ```
    #[must_use]
    pub fn streams(&self) -> usize {
        #[cfg(feature = "http2")]
        if let Some(streams) = self.shared.streams() {
            return streams.in_use();
        }
        self.shared.activity().is_in_use().into()
    }

    /// The id of the exchange's stream over HTTP/2 (RFC 9113 §5.1.1), to find the exchange in a log of frames. `None` over
    /// HTTP/1, and for an error of a request that got no stream.
    #[must_use]
    pub fn stream_id(&self) -> Option<u32> {
        #[cfg(feature = "http2")]
        if self.stream != 0 {
            return Some(self.stream);
        }
        None
    }

    /// How long ago the connection was made; zero if it belongs to no pool.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.shared
            .born()
            .map_or(Duration::ZERO, |born| Moment::now().since(born))
    }

    /// How long the connection was idle before this exchange.
    #[must_use]
    pub fn idle_for(&self) -> Duration {
        self.idle.map_or(Duration::ZERO, |(since, until)| {
            until.saturating_duration_since(since)
        })
    }

    /// The local address, if the transport knows it.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.shared.transport()?.addresses.as_ref()?.local
    }

    /// The server's address, if the transport knows it.
    #[must_use]
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.shared.remote_addr()
    }

    /// What the TLS handshake with the origin negotiated, and the origin's certificates. `None` without TLS, and for
    /// transports of other types than those of [`connect`](crate::connect). TLS to a proxy is not reported.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.shared.transport()?.tls.as_ref()
    }

    /// How long the parts of this exchange have taken so far. `None` unless [`RecordTimings`](crate::extensions::RecordTimings) or
    /// [`ExchangeLayer::timings`](crate::layers::ExchangeLayer::timings) asked for it. To get the time of the body, keep a
    /// clone of the info and call this method after the end of the body.
    #[must_use]
    pub fn timings(&self) -> Option<Timings> {
        let own_connect = self.shared.transport().filter(|_| !self.is_reused());
        let connect = own_connect.map(|transport| transport.times);
        Some(self.recorder.as_ref()?.timings(connect))
    }

    /// The key under which the connection is pooled; `None` if it belongs to no pool.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.shared.key()
    }

    /// Takes the connection out of its agent (Node: `agentRemove`), for an exchange that stays open for long: the
    /// connection finishes its exchange, counts in no limit, and does not return to the pool.
    ///
    /// Its permit goes to the next caller in the queue at once. Does nothing if the exchange is over or the connection
    /// was detached before.
    pub fn detach(&self) {
        // After this exchange the connection belongs to the pool or to another exchange, which must not lose it.
        if self.shared.activity().is_use(self.uses) {
            self.shared.detach();
        }
    }

    /// Marks the connection as not to be used again: it is closed after the current exchange. An idle connection is
    /// closed at once. Call it if a response shows that the server is unhealthy.
    ///
    /// ```
    /// # fn answered(response: http::Response<tower_keep_alive::Body>) {
    /// if response.status() == http::StatusCode::SERVICE_UNAVAILABLE {
    ///     response.body().connection().poison();
    /// }
    /// # }
    /// ```
    pub fn poison(&self) {
        self.shared.poison();
    }

    pub(crate) fn shared(&self) -> &ConnShared {
        &self.shared
    }
}

impl fmt::Debug for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ConnectionInfo");
        debug
            .field("id", &self.id())
            .field("key", &self.key())
            .field("reused", &self.is_reused())
            .field("version", &self.version())
            .field("uses", &self.uses)
            .field("streams", &self.streams())
            .field("stream_id", &self.stream_id())
            .field("age", &self.age())
            .field("idle_for", &self.idle_for())
            .field("local_addr", &self.local_addr())
            .field("remote_addr", &self.remote_addr());
        #[cfg(feature = "tls")]
        if let Some(tls) = self.tls() {
            debug.field("tls", tls);
        }
        debug.finish()
    }
}

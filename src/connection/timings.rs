//! How long the parts of an exchange took.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::Mutex;

/// How long the parts of one exchange took; from [`ConnectionInfo::timings`](crate::ConnectionInfo::timings), where the
/// request or the agent asked for it: [`RecordTimings`](crate::RecordTimings),
/// [`ExchangeLayer::timings`](crate::ExchangeLayer::timings).
///
/// What a part took that did not happen, or has not ended yet, is `None`: a reused connection has no DNS. The times of a
/// connect are in whole microseconds. The parts are told
/// by the connectors of [`connect`](crate::connect); of others only the connect as a whole is known, as the difference of
/// [`total`](Self::total) and the others.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_keep_alive::BoxError> {
/// # let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
/// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// # let url = format!("http://{}/", listener.local_addr()?);
/// # tokio::spawn(async { axum::serve(listener, app).await });
/// use tower_keep_alive::{KeepAlive, RecordTimings, http::Request};
///
/// let agent = KeepAlive::new();
/// let request = Request::get(&url).extension(RecordTimings).body(())?;
/// let response = agent.request(request).await?;
/// let info = response.body().connection().clone();
/// response.into_body().text(1024).await?;
/// let timings = info.timings().expect("asked for");
/// println!("{:?} to the head, {:?} for the body", timings.response(), timings.body());
/// assert!(timings.connect().is_some() && timings.tls().is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    queue: Duration,
    connect: ConnectTimes,
    response: Option<Duration>,
    body: Option<Duration>,
    total: Duration,
}

impl Timings {
    /// From the first poll of the request's future until it had a connection, without the connect that was made for it:
    /// what it waited for others.
    #[must_use]
    pub fn queue(&self) -> Duration {
        self.queue
    }

    /// Resolving the name (undici: `connectionStartTime` to `domainLookupEndTime`; Go: `DNSStart` to `DNSDone`).
    #[doc(alias = "DNSDone")]
    #[must_use]
    pub fn dns(&self) -> Option<Duration> {
        self.connect.dns.known()
    }

    /// The connect of TCP or of the Unix socket, to the proxy where there is one: until one of the name's addresses answered
    /// (Go: `ConnectStart` to `ConnectDone`).
    #[doc(alias = "ConnectDone")]
    #[must_use]
    pub fn connect(&self) -> Option<Duration> {
        self.connect.connect.known()
    }

    /// Having a proxy make a tunnel to the origin.
    #[must_use]
    pub fn tunnel(&self) -> Option<Duration> {
        self.connect.tunnel.known()
    }

    /// The handshake of TLS (Go: `TLSHandshakeStart` to `TLSHandshakeDone`); where a proxy is spoken with under TLS, the sum
    /// of both.
    #[doc(alias = "TLSHandshakeDone")]
    #[must_use]
    pub fn tls(&self) -> Option<Duration> {
        self.connect.tls.known()
    }

    /// From when the request was given to its connection until the head of the response was there, the upload included
    /// (Go: `WroteRequest` and `GotFirstResponseByte`). Where a request was sent again by the agent, it is that of the last
    /// time.
    #[doc(alias = "GotFirstResponseByte")]
    #[must_use]
    pub fn response(&self) -> Option<Duration> {
        self.response
    }

    /// From the head of the response to the end of its body, or to when it failed or was dropped.
    #[must_use]
    pub fn body(&self) -> Option<Duration> {
        self.body
    }

    /// From the first poll of the request's future to the end of the body, or to the failure; to the last thing that is
    /// known, if it goes on.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.total
    }
}

/// How long the parts of one connect took. Each connection keeps one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectTimes {
    pub(crate) dns: Micros,
    pub(crate) connect: Micros,
    pub(crate) tunnel: Micros,
    pub(crate) tls: Micros,
    /// With what has no name of its own.
    pub(crate) total: Micros,
}

/// A length of time in a quarter of a [`Duration`]'s room: whole microseconds, 71 minutes at the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Micros(u32);

impl Micros {
    pub(crate) const NONE: Self = Self(u32::MAX);

    /// Nothing, if it is none.
    pub(crate) fn known(self) -> Option<Duration> {
        (self != Self::NONE).then(|| Duration::from_micros(self.0.into()))
    }
}

impl From<Duration> for Micros {
    fn from(time: Duration) -> Self {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        Self(micros.min(u32::MAX - 1))
    }
}

impl ConnectTimes {
    pub(crate) const NONE: Self = Self {
        dns: Micros::NONE,
        connect: Micros::NONE,
        tunnel: Micros::NONE,
        tls: Micros::NONE,
        total: Micros::NONE,
    };
}

/// What is recorded of one exchange.
#[derive(Debug)]
pub(crate) struct Recorder {
    begun: Instant,
    later: Mutex<Later>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Later {
    sent: Option<Instant>,
    head: Option<Instant>,
    ended: Option<Instant>,
}

impl Recorder {
    /// Of an exchange that begins now.
    pub(crate) fn begin() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            later: Mutex::new(Later::default()),
        })
    }

    /// Its connection has the request; it may be the second one.
    pub(crate) fn sent(&self) {
        self.set(|later| later.sent = Some(Instant::now()));
    }

    /// The head of the response is there.
    pub(crate) fn head(&self) {
        self.set(|later| later.head = Some(Instant::now()));
    }

    /// It is over, in whatever way. Whether it was not before.
    pub(crate) fn end(&self) -> bool {
        let mut first = false;
        self.set(|later| {
            first = later.ended.is_none();
            later.ended.get_or_insert_with(Instant::now);
        });
        first
    }

    fn set(&self, change: impl FnOnce(&mut Later)) {
        change(&mut self.later.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// `connect`: of the connection, where it was made for this exchange.
    pub(crate) fn timings(&self, connect: Option<ConnectTimes>) -> Timings {
        let Later { sent, head, ended } =
            *self.later.lock().unwrap_or_else(PoisonError::into_inner);
        let connect = connect.unwrap_or(ConnectTimes::NONE);
        let between =
            |from: Option<Instant>, to: Option<Instant>| Some(to?.saturating_duration_since(from?));
        let begun = Some(self.begun);
        let waited = between(begun, sent).unwrap_or_default();
        Timings {
            queue: waited.saturating_sub(connect.total.known().unwrap_or_default()),
            connect,
            response: between(sent, head),
            body: between(head, ended),
            total: between(begun, ended.or(head).or(sent)).unwrap_or_default(),
        }
    }
}

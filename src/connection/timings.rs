//! How long the parts of an exchange took.

use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::Mutex;

/// How long the parts of one exchange took; from [`ConnectionInfo::timings`](crate::ConnectionInfo::timings), if the
/// request or the agent asked for it by [`RecordTimings`](crate::extensions::RecordTimings) or
/// [`ExchangeLayer::timings`](crate::layers::ExchangeLayer::timings).
///
/// A part that did not take place, or has not ended yet, is `None`: an exchange on a reused connection has no DNS
/// lookup. The parts of a connect are in whole microseconds, and are reported by the connectors of
/// [`connect`](crate::connect). For other connectors only the connect as a whole is known: it is [`total`](Self::total)
/// less the other parts.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_keep_alive::BoxError> {
/// # let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
/// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// # let url = format!("http://{}/", listener.local_addr()?);
/// # tokio::spawn(async { axum::serve(listener, app).await });
/// use tower_keep_alive::{KeepAlive, http::Request, extensions::RecordTimings};
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
    /// the time spent waiting for other callers.
    #[must_use]
    pub fn queue(&self) -> Duration {
        self.queue
    }

    /// The lookup of the host name (undici: `connectionStartTime` to `domainLookupEndTime`; Go: `DNSStart` to
    /// `DNSDone`).
    #[doc(alias = "DNSDone")]
    #[must_use]
    pub fn dns(&self) -> Option<Duration> {
        self.connect.dns.known()
    }

    /// The connect of TCP or of a Unix socket, until one of the addresses has answered; with a proxy, the connect to
    /// the proxy (Go: `ConnectStart` to `ConnectDone`).
    #[doc(alias = "ConnectDone")]
    #[must_use]
    pub fn connect(&self) -> Option<Duration> {
        self.connect.connect.known()
    }

    /// Opening a tunnel to the origin through a proxy.
    #[must_use]
    pub fn tunnel(&self) -> Option<Duration> {
        self.connect.tunnel.known()
    }

    /// The TLS handshake (Go: `TLSHandshakeStart` to `TLSHandshakeDone`); with a proxy that is reached by TLS, the sum
    /// of both handshakes.
    #[doc(alias = "TLSHandshakeDone")]
    #[must_use]
    pub fn tls(&self) -> Option<Duration> {
        self.connect.tls.known()
    }

    /// From the moment when the request was passed to its connection until the head of the response was received,
    /// including the upload (Go: `WroteRequest` and `GotFirstResponseByte`). If the agent sent the request again, only
    /// the last attempt counts.
    #[doc(alias = "GotFirstResponseByte")]
    #[must_use]
    pub fn response(&self) -> Option<Duration> {
        self.response
    }

    /// From the head of the response until its body ended, failed or was dropped.
    #[must_use]
    pub fn body(&self) -> Option<Duration> {
        self.body
    }

    /// From the first poll of the request's future until the body ended or the exchange failed. While the exchange goes
    /// on: until the last event that was recorded.
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
    /// Including what belongs to none of the parts.
    pub(crate) total: Micros,
}

/// A length of time in a quarter of the size of a [`Duration`]: whole microseconds and one, at most 71 minutes. Never zero, which
/// leaves an enum around it room for its discriminant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Micros(NonZeroU32);

impl Micros {
    pub(crate) const NONE: Self = Self(NonZeroU32::MAX);

    /// `None` if there was no such part.
    pub(crate) fn known(self) -> Option<Duration> {
        (self != Self::NONE).then(|| Duration::from_micros((self.0.get() - 1).into()))
    }
}

impl From<Duration> for Micros {
    fn from(time: Duration) -> Self {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        Self(NonZeroU32::MIN.saturating_add(micros.min(u32::MAX - 2)))
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

/// The times recorded of one exchange.
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
    /// Starts recording an exchange that begins now.
    pub(crate) fn begin() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            later: Mutex::new(Later::default()),
        })
    }

    /// The request was passed to its connection; the last call counts.
    pub(crate) fn sent(&self) {
        self.set(|later| later.sent = Some(Instant::now()));
    }

    /// The head of the response was received.
    pub(crate) fn head(&self) {
        self.set(|later| later.head = Some(Instant::now()));
    }

    /// The exchange is over, successfully or not. Returns whether this is the first call.
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

    /// `connect`: the times of the connection's connect, if it was made for this exchange.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_a_connect_is_kept_to_the_microsecond_and_capped() {
        for micros in [0, 1, 4_294_967_293] {
            let time = Duration::from_micros(micros);
            assert_eq!(Micros::from(time).known(), Some(time));
        }
        let longest = Some(Duration::from_micros(4_294_967_293));
        assert_eq!(Micros::from(Duration::MAX).known(), longest);
        assert_eq!(Micros::NONE.known(), None);
    }
}

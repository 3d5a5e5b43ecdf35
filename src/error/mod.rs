//! Errors that tell a caller what to do.

mod chain;
mod checkout;
pub(crate) mod connect;
mod display;
mod driver_gone;
#[cfg(feature = "http2")]
mod http2;
mod instead;
mod predicates;
pub(crate) mod request_body;
mod send;
pub(crate) mod timeout_kind;

use std::error::Error as StdError;
use std::time::Duration;

use http::uri::Authority;

use crate::connection::close_reason::CloseReason;
use crate::connection::info::ConnectionInfo;
use crate::connection::shared::ConnShared;
use crate::target::invalid::{InvalidTarget, TargetError};
#[cfg(feature = "proxy")]
use crate::target::proxy::Refusal;

pub(crate) use chain::{find, is_gone, is_reset};
pub use checkout::{CheckoutError, Denied};
pub(crate) use driver_gone::DriverGone;
#[cfg(feature = "http2")]
pub(crate) use http2::{Http2End, Http2Fault, SaidNothing};
pub(crate) use instead::Instead;
use request_body::{BodyFault, RequestBodyError};
pub(crate) use send::PartlyWritten;
pub use send::SendError;
pub use timeout_kind::TimeoutKind;

/// Any error, boxed.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a request failed, or the body of a response.
///
/// Use its predicates: the text, and the types of [`source`](StdError::source), may change. [`find`](Self::find) finds
/// this error inside the errors of layers above. If the operating system reported an error, it is in the chain of
/// sources, at a depth that varies; [`io_error`](Self::io_error) finds it.
///
/// ```
/// use tower_keep_alive::KeepAlive;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let agent = KeepAlive::new();
/// // A port at which nobody listens.
/// let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
/// let error = agent.get(format!("http://{address}/")).await.unwrap_err();
/// assert!(error.is_connect() && error.is_unsent() && !error.is_permanent());
/// assert!(error.to_string().contains("connection refused"));
///
/// // No scheme: another attempt would fail in the same way.
/// let error = agent.get("api.example.com").await.unwrap_err();
/// assert!(error.is_target() && error.is_permanent());
/// # Ok(())
/// # }
/// ```
///
/// | predicate | what happened | what to do |
/// |---|---|---|
/// | [`is_target`](Self::is_target) | the request cannot be sent as it is | correct the request |
/// | [`is_request_body`](Self::is_request_body) | the request's own body failed, or has another length than was announced | look at the source, which is the body's error |
/// | [`is_connect`](Self::is_connect) | no connection could be made | try again later, or another server |
/// | [`is_dns`](Self::is_dns), with `is_connect` | the name could not be resolved | check the name, or try again later |
/// | [`is_certificate`](Self::is_certificate), with `is_connect` | the server's certificate was not accepted | do not try again; the text says what to do |
/// | [`is_protocol`](Self::is_protocol), often with `is_connect` or `is_target` | the server speaks another version of HTTP, or TLS where it was asked in plain HTTP, or no TLS | look at the text, which says what to change |
/// | [`is_timeout`](Self::is_timeout) | something took too long; [`timeout_kind`](Self::timeout_kind) says what | depends on the kind |
/// | [`is_queue_full`](Self::is_queue_full) | the queue for a connection is full | shed load |
/// | [`is_shut_down`](Self::is_shut_down) | the agent was drained or destroyed | stop |
/// | [`is_reset`](Self::is_reset) | the connection was closed or lost before the head of a response | if it [`is_reused`](Self::is_reused), send an idempotent request again; [`ReusedReset`](crate::retry::ReusedReset) does |
/// | [`is_unsent`](Self::is_unsent), beside any of these | the server has seen nothing of the request | send it again, whatever its method, unless it [`is_target`](Self::is_target) |
/// | [`is_too_large`](Self::is_too_large), [`is_decode`](Self::is_decode) | the response is larger than the limit, or its body not what was asked for | raise the limit, look at the response |
/// | `is_refused`, with the feature `http2` | the server refused the request, again and again or after much of its body was sent, and has not acted on it | send it again later, whatever its method |
/// | [`is_permanent`](Self::is_permanent), beside any of these | another attempt would fail in the same way | do not try again |
/// | none of these | no response, or a body that could not be read to its end | send an idempotent request again |
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    unsent: bool,
    /// True if an agent reports the fault of its own request; false if a connector reports it about the target that it
    /// was given.
    by_agent: bool,
    source: Option<BoxError>,
    connection: Option<ConnectionInfo>,
    /// The authority of a connect that failed or took too long.
    to: Option<Box<str>>,
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// The request has no target to connect to, or cannot be sent.
    Target(TargetError),
    /// No connection could be made; `timed_out` if a layer or the connector below reported a timeout.
    Connect {
        timed_out: bool,
    },
    /// A proxy refused to make a tunnel.
    #[cfg(feature = "proxy")]
    Refused(Box<Refusal>),
    Timeout(TimeoutKind, Duration),
    /// A time limit above the agent was exceeded; its length is unknown.
    Elapsed,
    QueueFull(usize),
    ShutDown,
    /// The request's own body failed.
    RequestBody(BodyFault),
    /// The connection failed before the head of a response.
    Exchange,
    /// The body of a response failed: its connection did, or a layer that it came through.
    Body,
    /// The body of a response is longer than the caller's limit.
    TooLarge(usize),
    /// The body of a response is complete, and not of the expected kind.
    Decode(&'static str),
}

impl Error {
    pub(crate) fn new(kind: Kind) -> Self {
        Self(Box::new(Inner {
            kind,
            unsent: false,
            by_agent: false,
            source: None,
            connection: None,
            to: None,
        }))
    }

    pub(crate) fn caused_by(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn on(mut self, connection: ConnectionInfo) -> Self {
        match connection.shared().reason() {
            Some(CloseReason::Shutdown) => self.0.kind = Kind::ShutDown,
            Some(CloseReason::Silence) => self.0.kind = silence(connection.shared()),
            Some(CloseReason::RequestTimeout | CloseReason::ResponseTimeout) => {
                // Not if the limit belonged to the exchange before, which had just ended.
                if let Some((kind, limit)) = connection.shared().timed_out(connection.uses()) {
                    self.0.kind = Kind::Timeout(kind, limit);
                }
            }
            _ => {}
        }
        // The agent has ended the connection itself, which hyper reports as if something else had failed.
        let is_ours = matches!(self.0.kind, Kind::Timeout(..) | Kind::ShutDown);
        self.0
            .source
            .take_if(|it| is_ours && (it.is::<hyper::Error>() || it.is::<DriverGone>()));
        self.with_connection(connection)
    }

    /// Adds the connection of a response, whatever has become of it since.
    pub(crate) fn with_connection(mut self, connection: ConnectionInfo) -> Self {
        self.0.connection = Some(connection);
        self
    }

    pub(crate) fn unsent(mut self) -> Self {
        self.0.unsent = true;
        self
    }

    /// A request that cannot be sent, as an agent reports it.
    pub(crate) fn target(fault: TargetError) -> Self {
        let mut error = Self::new(Kind::Target(fault));
        error.0.by_agent = true;
        error
    }

    /// Adds the authority to the text of a connect that failed or was not made in time, unless the connector names it.
    pub(crate) fn to(mut self, authority: &Authority) -> Self {
        let is_bare = match self.0.kind {
            Kind::Timeout(TimeoutKind::Connect, _) => true,
            Kind::Connect { .. } => self.connect_error().is_none(),
            _ => false,
        };
        if is_bare {
            self.0.to = Some(authority.as_str().into());
        }
        self
    }

    /// Converts an error of the services that provide connections.
    pub(crate) fn from_checkout(error: BoxError) -> Self {
        let error = match error.downcast::<CheckoutError>() {
            Ok(error) => match *error {
                CheckoutError::Denied(denied) => return Self::denied(denied),
                CheckoutError::Connect(error) => return Self::not_connected(error),
            },
            Err(error) => error,
        };
        if let Some(denied) = error.downcast_ref::<Denied>() {
            return Self::denied(*denied);
        }
        // The pool's error may be wrapped by layers in between.
        match chain::denied(&*error) {
            // Some layers add no text of their own.
            Some(denied) if error.to_string() == denied.to_string() => Self::denied(denied),
            Some(denied) => Self::denied(denied).caused_by(error),
            None => Self::not_connected(error),
        }
    }

    fn denied(denied: Denied) -> Self {
        let kind = match denied {
            Denied::CheckoutTimeout(after) => Kind::Timeout(TimeoutKind::Checkout, after),
            Denied::ConnectTimeout(after) => Kind::Timeout(TimeoutKind::Connect, after),
            Denied::CannotClose(after) => Kind::Timeout(TimeoutKind::Close, after),
            Denied::QueueFull(limit) => Kind::QueueFull(limit),
            Denied::ShutDown => Kind::ShutDown,
            Denied::NotPolled(_) => {
                let error = Self::new(Kind::Connect { timed_out: false });
                return error.unsent().caused_by(denied);
            }
        };
        Self::new(kind).unsent()
    }

    /// If the caller lost the connection that was made for it, and may ask again: how long it had waited in the queue
    /// before.
    pub(crate) fn not_polled(&self) -> Option<Duration> {
        let source = self.0.source.as_ref();
        let denied = source.and_then(|it| it.downcast_ref::<Denied>());
        match denied {
            Some(Denied::NotPolled(waited)) => Some(*waited),
            _ => None,
        }
    }

    /// Converts an error of a connector.
    pub(crate) fn not_connected(source: BoxError) -> Self {
        if let Some(InvalidTarget(fault)) = find(&*source) {
            return Self::target(fault.clone());
        }
        let found = find::<Self>(&*source).filter(|error| !error.0.by_agent);
        match found.map(|error| &error.0.kind) {
            // The connector cannot follow the request's target.
            Some(Kind::Target(fault)) => return Self::target(fault.clone()),
            #[cfg(feature = "proxy")]
            Some(Kind::Refused(refusal)) => {
                let mut error = Self::new(Kind::Refused(refusal.clone())).unsent();
                error.0.by_agent = true;
                return error;
            }
            _ => {}
        }
        let timed_out = chain::has_timed_out(&*source);
        let error = Self::new(Kind::Connect { timed_out });
        error.unsent().caused_by(source)
    }

    /// Converts an error of a connection that gave no response.
    pub(crate) fn from_send(error: BoxError, unsent: bool) -> Self {
        let error = match error.downcast::<RequestBodyError>() {
            Ok(error) => {
                let RequestBodyError { fault, source } = *error;
                let mut error = Self::new(Kind::RequestBody(fault));
                error.0.source = source;
                return error;
            }
            Err(error) => error,
        };
        if chain::is_of_body(&*error) {
            return Self::new(Kind::RequestBody(BodyFault::Failed)).caused_by(error);
        }
        let mut failed = Self::new(Kind::Exchange).caused_by(error);
        failed.0.unsent = unsent;
        failed
    }
}

/// A connection or one of its uses has ended by the silence of the server.
fn silence(shared: &ConnShared) -> Kind {
    #[cfg(feature = "http2")]
    if let Some(limit) = shared.unanswered_ping() {
        return Kind::Timeout(TimeoutKind::Ping, limit);
    }
    let limit = shared.activity().limit().unwrap_or(Duration::MAX);
    Kind::Timeout(TimeoutKind::Inactivity, limit)
}

impl From<InvalidTarget> for Error {
    fn from(InvalidTarget(fault): InvalidTarget) -> Self {
        Self::target(fault)
    }
}

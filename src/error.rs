//! Errors that say what a caller can decide on.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use http::Request;
#[cfg(feature = "proxy")]
use http::{HeaderMap, StatusCode};

use crate::cause::Cause;
use crate::info::ConnectionInfo;
#[cfg(feature = "proxy")]
use crate::proxy::Refusal;

/// Any error, boxed.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a request has no answer, or a response no end.
///
/// Ask its predicates; neither the text nor the types of [`source`](StdError::source) are promised. [`find`](Self::find)
/// finds it through the boxes of layers above.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    unsent: bool,
    source: Option<BoxError>,
    connection: Option<ConnectionInfo>,
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// The request names nothing that can be connected to, or cannot be sent.
    Target(TargetError),
    Connect,
    /// A proxy did not make the tunnel that it was asked for.
    #[cfg(feature = "proxy")]
    Refused(Box<Refusal>),
    Timeout(TimeoutKind, Duration),
    QueueFull(usize),
    ShutDown,
    /// The connection failed before the head of a response.
    Exchange,
    /// The connection failed after the head of a response.
    Body,
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimeoutKind {
    /// Making the connection: DNS, TCP, TLS.
    Connect,
    /// Waiting in line for a connection.
    Checkout,
    /// Silence on a connection in use.
    Inactivity,
}

impl Error {
    pub(crate) fn new(kind: Kind) -> Self {
        Self(Box::new(Inner {
            kind,
            unsent: false,
            source: None,
            connection: None,
        }))
    }

    pub(crate) fn caused_by(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn on(mut self, connection: ConnectionInfo) -> Self {
        match connection.bond().cause() {
            Some(Cause::Shutdown) => self.0.kind = Kind::ShutDown,
            Some(Cause::Silence) => {
                let limit = connection.bond().activity().limit();
                let limit = limit.unwrap_or(Duration::MAX);
                self.0.kind = Kind::Timeout(TimeoutKind::Inactivity, limit);
            }
            _ => {}
        }
        self.0.connection = Some(connection);
        self
    }

    pub(crate) fn unsent(mut self) -> Self {
        self.0.unsent = true;
        self
    }

    /// What the services below said when asked for a connection.
    pub(crate) fn from_checkout(error: BoxError) -> Self {
        let kind = match find::<Denied>(&*error) {
            Some(Denied::CheckoutTimeout(after)) => Kind::Timeout(TimeoutKind::Checkout, *after),
            Some(Denied::ConnectTimeout(after)) => Kind::Timeout(TimeoutKind::Connect, *after),
            Some(Denied::QueueFull(limit)) => Kind::QueueFull(*limit),
            Some(Denied::ShutDown) => Kind::ShutDown,
            None => match find::<Self>(&*error).map(|error| &error.0.kind) {
                // A connector's own: it cannot go where the request wants to go.
                Some(Kind::Target(fault)) => return Self::new(Kind::Target(fault.clone())),
                #[cfg(feature = "proxy")]
                Some(Kind::Refused(refusal)) => {
                    return Self::new(Kind::Refused(refusal.clone())).unsent();
                }
                _ => Kind::Connect,
            },
        };
        Self::new(kind).unsent().caused_by(error)
    }

    /// The agent's error in what others have made of it: in the boxes of layers above, in the `reqwest::Error` of a
    /// body, in that of a middleware.
    ///
    /// ```
    /// use tower_keep_alive::{BoxError, Error};
    ///
    /// fn may_be_sent_again(error: &BoxError) -> bool {
    ///     Error::find(&**error).is_some_and(Error::is_unsent)
    /// }
    /// assert!(!may_be_sent_again(&"something else".into()));
    /// ```
    #[must_use]
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        find(error)
    }

    /// No connection could be made. Nothing was sent.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        #[cfg(feature = "proxy")]
        if matches!(self.0.kind, Kind::Refused(_)) {
            return true;
        }
        matches!(
            self.0.kind,
            Kind::Connect | Kind::Timeout(TimeoutKind::Connect, _)
        )
    }

    /// The status of the proxy's answer, where a proxy of HTTP refused to make the tunnel that the request needs
    /// (RFC 9110 §9.3.6): 407 where it wants a login, 403 where it does not let anybody there, 502 where it could not
    /// connect. It is never the origin's, to which nothing was sent; [`is_connect`](Self::is_connect) is true. An answer
    /// to a request that the proxy reads itself (`http` without a tunnel) is a response and no error.
    ///
    /// ```
    /// use http::StatusCode;
    /// use tower_keep_alive::Error;
    ///
    /// fn wants_login(error: &Error) -> bool {
    ///     error.proxy_status() == Some(StatusCode::PROXY_AUTHENTICATION_REQUIRED)
    /// }
    /// # let _ = wants_login;
    /// ```
    #[cfg(feature = "proxy")]
    #[must_use]
    pub fn proxy_status(&self) -> Option<StatusCode> {
        self.refusal().map(Refusal::status)
    }

    /// The fields of the proxy's answer, where there is a [`proxy_status`](Self::proxy_status): `Proxy-Authenticate` says
    /// which login it wants, `Retry-After` when to come again.
    #[cfg(feature = "proxy")]
    #[must_use]
    pub fn proxy_headers(&self) -> Option<&HeaderMap> {
        self.refusal().map(Refusal::headers)
    }

    #[cfg(feature = "proxy")]
    fn refusal(&self) -> Option<&Refusal> {
        match &self.0.kind {
            Kind::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Something took longer than it may; [`timeout_kind`](Self::timeout_kind) says what.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.timeout_kind().is_some()
    }

    /// What took too long, where something did.
    #[must_use]
    pub fn timeout_kind(&self) -> Option<TimeoutKind> {
        match self.0.kind {
            Kind::Timeout(kind, _) => Some(kind),
            _ => None,
        }
    }

    /// How long it took, where [`is_timeout`](Self::is_timeout).
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        match self.0.kind {
            Kind::Timeout(_, after) => Some(after),
            _ => None,
        }
    }

    /// The connection was closed or reset before the head of a response. With [`is_reused`](Self::is_reused) this is
    /// what a server's closing of an idle connection looks like.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        matches!(self.0.kind, Kind::Exchange) && self.source().is_some_and(is_reset)
    }

    /// The connection had not been made for this request; see [`ConnectionInfo::is_reused`].
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.0
            .connection
            .as_ref()
            .is_some_and(ConnectionInfo::is_reused)
    }

    /// No byte of the request was written: it is safe to send again, whatever its method.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        self.0.unsent || matches!(self.0.kind, Kind::Target(_))
    }

    /// As many callers were in line as may be.
    #[must_use]
    pub fn is_queue_full(&self) -> bool {
        matches!(self.0.kind, Kind::QueueFull(_))
    }

    /// The agent was drained or destroyed.
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        matches!(self.0.kind, Kind::ShutDown)
    }

    /// The request cannot be sent as it is: no host, a scheme that is not HTTP, contradictory fields, a
    /// [`Route`](crate::Route) that the connector cannot follow. The text says which. No connection was touched.
    #[must_use]
    pub fn is_target(&self) -> bool {
        matches!(self.0.kind, Kind::Target(_))
    }

    /// The connection that failed, where there was one.
    #[must_use]
    pub fn connection(&self) -> Option<&ConnectionInfo> {
        self.0.connection.as_ref()
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("unsent", &self.0.unsent)
            .field("connection", &self.0.connection)
            .field("source", &self.0.source)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.kind {
            Kind::Target(fault) => return fault.fmt(f),
            Kind::Connect => f.write_str("cannot connect")?,
            #[cfg(feature = "proxy")]
            Kind::Refused(refusal) => refusal.fmt(f)?,
            Kind::Timeout(TimeoutKind::Connect, after) => {
                write!(f, "no connection within {after:?}")?;
            }
            Kind::Timeout(TimeoutKind::Checkout, after) => {
                write!(f, "no connection came free within {after:?}")?;
            }
            Kind::Timeout(TimeoutKind::Inactivity, after) => {
                write!(f, "nothing moved on the connection for {after:?}")?;
            }
            Kind::QueueFull(limit) => {
                write!(f, "{limit} callers are waiting for a connection already")?;
            }
            Kind::ShutDown => f.write_str("the agent is shut down")?,
            Kind::Exchange if self.0.unsent => f.write_str("the request could not be sent")?,
            Kind::Exchange if self.is_reset() => {
                f.write_str("the connection was closed before a response")?;
            }
            Kind::Exchange => f.write_str("no response")?,
            Kind::Body => f.write_str("the response has no end")?,
        }
        if self.is_reused() {
            f.write_str(" (reused connection)")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0.source {
            Some(source) => Some(&**source),
            None => None,
        }
    }
}

/// What is wrong with a request that cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TargetError {
    NoScheme,
    NoHost,
    TooLong,
    Scheme(String),
    Port(String),
    Method(&'static str),
    Header(&'static str, &'static str),
    Route(&'static str),
    /// Of the user information of a URI, which the text does not show.
    User(&'static str),
    #[cfg(feature = "reqwest")]
    Url,
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoScheme => f.write_str("the URI has no scheme: it must be absolute"),
            Self::NoHost => f.write_str("the URI has no host"),
            Self::TooLong => f.write_str("the URI is too long"),
            Self::Scheme(scheme) => write!(f, "the scheme {scheme:?} is neither http nor https"),
            Self::Port(port) => write!(f, "{port:?} is no port"),
            Self::Method(why) | Self::Route(why) | Self::User(why) => f.write_str(why),
            Self::Header(name, why) => write!(f, "the field {name} cannot be sent: {why}"),
            #[cfg(feature = "reqwest")]
            Self::Url => f.write_str("the URL is no URI"),
        }
    }
}

/// Why `Checkout` has no connection.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckoutError<E> {
    /// The connector's own error.
    Connect(E),
    /// The pool's.
    Denied(Denied),
}

/// Why a pool gives no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denied {
    /// The connect took longer than this.
    ConnectTimeout(Duration),
    /// No connection came free for this long.
    CheckoutTimeout(Duration),
    /// So many callers were waiting for this key already, and no more may.
    QueueFull(usize),
    /// The agent was drained or destroyed.
    ShutDown,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectTimeout(after) => write!(f, "no connection within {after:?}"),
            Self::CheckoutTimeout(after) => write!(f, "no connection came free within {after:?}"),
            Self::QueueFull(limit) => write!(f, "{limit} callers are waiting already"),
            Self::ShutDown => f.write_str("the agent is shut down"),
        }
    }
}

impl StdError for Denied {}

impl<E: fmt::Debug> fmt::Debug for CheckoutError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => f.debug_tuple("Connect").field(error).finish(),
            Self::Denied(denied) => denied.fmt(f),
        }
    }
}

impl<E: fmt::Display> fmt::Display for CheckoutError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => error.fmt(f),
            Self::Denied(denied) => denied.fmt(f),
        }
    }
}

// Not an `Error` itself: connectors' errors are often boxed, and a box is none. Boxing it gives what it holds.
impl<E: Into<Self>> From<CheckoutError<E>> for BoxError {
    fn from(error: CheckoutError<E>) -> Self {
        match error {
            CheckoutError::Connect(error) => error.into(),
            CheckoutError::Denied(denied) => denied.into(),
        }
    }
}

impl<E: Into<BoxError>> From<CheckoutError<E>> for Box<dyn StdError> {
    fn from(error: CheckoutError<E>) -> Self {
        BoxError::from(error)
    }
}

/// Why a connection has no response, with the request where none of it was written.
pub struct SendError<B> {
    /// What happened.
    pub error: BoxError,
    /// The request, whole: it was never sent. Boxed: what is seldom there is not to be moved with every answer.
    pub unsent: Option<Box<Request<B>>>,
}

impl<B> fmt::Debug for SendError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError")
            .field("error", &self.error)
            .field("unsent", &self.unsent.is_some())
            .finish()
    }
}

impl<B> fmt::Display for SendError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.unsent.is_some() {
            "the request was not sent"
        } else {
            "the request has no response"
        })
    }
}

impl<B> StdError for SendError<B> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.error)
    }
}

/// An error, and what it came from.
fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| {
        // An I/O error that holds another one passes over it: its source is that one's.
        let io = error.downcast_ref::<io::Error>();
        match io.and_then(io::Error::get_ref) {
            Some(held) => Some(held),
            None => error.source(),
        }
    })
}

pub(crate) fn find<'a, E: StdError + 'static>(
    error: &'a (dyn StdError + 'static),
) -> Option<&'a E> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// Every form that the end of a connection takes. hyper has no one predicate for them: IncompleteMessage is a kind of
/// its own, a reset comes as an I/O error or as a failed write of a body that a GET does not have.
fn is_reset(error: &(dyn StdError + 'static)) -> bool {
    chain(error).any(|error| {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return error.is_incomplete_message() || error.is_canceled() || error.is_closed();
        }
        error.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            )
        })
    })
}

/// Whether a stream just ended, if too early: no failure of the network.
pub(crate) fn is_end_of_stream(error: &(dyn StdError + 'static)) -> bool {
    find::<io::Error>(error).is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

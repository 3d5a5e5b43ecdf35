//! What a caller can ask an error.

use std::error::Error as StdError;
use std::io;
use std::sync::LazyLock;
use std::time::Duration;

#[cfg(feature = "proxy")]
use http::{HeaderMap, StatusCode};

use crate::connection::info::ConnectionInfo;
use crate::error::chain::{self, Found, find};
use crate::error::connect::ConnectError;
use crate::error::{Error, Kind, TimeoutKind};
use crate::target::invalid::TargetError;
#[cfg(feature = "proxy")]
use crate::target::proxy::Refusal;

impl Error {
    /// Finds the agent's error in an error that wraps it: the boxed error of a layer above, the `reqwest::Error` of a
    /// body, or the error of a middleware.
    ///
    /// If a time limit above the agent was exceeded (`Elapsed` of `tower::timeout` or of `tokio::time::timeout`), the
    /// result is an error for which [`is_timeout`](Self::is_timeout) is true, of the kind
    /// [`Request`](TimeoutKind::Request): the server may have seen the request.
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
        static ELAPSED: LazyLock<Error> = LazyLock::new(|| Error::new(Kind::Elapsed));
        match chain::agents_or_elapsed(error)? {
            Found::Agents(error) => Some(error),
            Found::Elapsed => Some(&ELAPSED),
        }
    }

    /// No connection could be made. Nothing was sent.
    ///
    /// If a connector of [`connect`](crate::connect) failed, the text says what could not be connected to, and why:
    /// each address that was tried, a name without addresses, the path of a Unix socket, the proxy, or the server of a
    /// handshake.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        #[cfg(feature = "proxy")]
        if matches!(self.0.kind, Kind::Refused(_)) {
            return true;
        }
        matches!(
            self.0.kind,
            Kind::Connect { .. } | Kind::Timeout(TimeoutKind::Connect, _)
        )
    }

    /// The name of the host, or of the proxy, could not be resolved: the lookup failed, got no answer within
    /// [`FollowDns::lookup_timeout`](crate::FollowDns::lookup_timeout) or the
    /// [`connect_timeout`](crate::KeepAliveLayer::connect_timeout), or found no address of the wanted family. The text
    /// has the name and the resolver's error, which is also the source. [`is_connect`](Self::is_connect) is true as
    /// well, and [`is_timeout`](Self::is_timeout) if there was no answer. Nothing was sent.
    ///
    /// It is about lookups by [`TcpConnector`](crate::connect::TcpConnector).
    #[must_use]
    pub fn is_dns(&self) -> bool {
        self.connect_error().is_some_and(ConnectError::is_dns)
    }

    /// The server speaks another protocol than the settings, the request or its URI require:
    ///
    /// - not the version of HTTP of the settings ([`KeepAliveLayer::protocol`](crate::KeepAliveLayer::protocol),
    ///   [`Route::with_protocol`](crate::extensions::Route::with_protocol)) or of the request, or none of the versions that it was
    ///   offered; or it requires HTTP/1.1 for this request (feature `http2`: HTTP_1_1_REQUIRED), which was not sent over
    ///   HTTP/1.1;
    /// - TLS, where the URI begins with `http`; or no TLS, where it begins with `https`.
    ///
    /// The text says what the server speaks, if that is known, and what to change.
    #[must_use]
    pub fn is_protocol(&self) -> bool {
        if self.connect_error().is_some_and(ConnectError::is_protocol) {
            return true;
        }
        #[cfg(feature = "http2")]
        if self.is_http1_unasked() {
            return true;
        }
        self.instead().is_some() || matches!(self.0.kind, Kind::Target(TargetError::Version(_)))
    }

    /// The server's certificate was not accepted: its issuer is not trusted, it has expired, or it is for another name.
    /// The text says which, and what to do. [`is_connect`](Self::is_connect) is true as well. Nothing was sent, and
    /// another attempt would fail in the same way. The same applies to a proxy that is reached by TLS.
    ///
    /// It is false if TLS is not that of [`TlsLayer`](crate::connect), and if a server rejects this client's
    /// certificate.
    ///
    /// ```
    /// use tower_keep_alive::Error;
    ///
    /// fn may_pass_with_time(error: &Error) -> bool {
    ///     error.is_connect() && !error.is_certificate()
    /// }
    /// # let _ = may_pass_with_time;
    /// ```
    #[must_use]
    pub fn is_certificate(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.is_connect() && self.source().is_some_and(chain::is_of_certificate);
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Another attempt of the same request would fail in the same way until something is changed: the request cannot be
    /// sent as it is ([`is_target`](Self::is_target)), the server's certificate was not accepted
    /// ([`is_certificate`](Self::is_certificate)), the server does not speak the required protocol
    /// ([`is_protocol`](Self::is_protocol)), the agent is shut down ([`is_shut_down`](Self::is_shut_down)), or a proxy
    /// refused the tunnel with a status other than 5xx, 408 and 429. [`Unsent`](crate::retry::Unsent) does not retry
    /// such a request.
    ///
    /// ```
    /// use tower_keep_alive::Error;
    ///
    /// fn try_again(error: &Error) -> bool {
    ///     error.is_unsent() && !error.is_permanent()
    /// }
    /// # let _ = try_again;
    /// ```
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        #[cfg(feature = "proxy")]
        if let Some(status) = self.proxy_status() {
            let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
            return !status.is_server_error() && !passing.contains(&status);
        }
        self.is_target() || self.is_certificate() || self.is_protocol() || self.is_shut_down()
    }

    /// The status of the proxy's response, if an HTTP proxy refused a tunnel (RFC 9110 §9.3.6): 407 if it requires a
    /// login, 403 if it does not allow the origin, 502 if it could not connect. Nothing was sent to the origin, and
    /// [`is_connect`](Self::is_connect) is true. If a proxy reads the request itself (`http` without a tunnel), its
    /// response is a response, not an error.
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

    /// The header fields of the proxy's response, if there is a [`proxy_status`](Self::proxy_status):
    /// `Proxy-Authenticate` says which login the proxy requires, `Retry-After` when to try again.
    ///
    /// ```
    /// use http::header::{HeaderValue, PROXY_AUTHENTICATE};
    /// use tower_keep_alive::Error;
    ///
    /// fn challenge(error: &Error) -> Option<&HeaderValue> {
    ///     error.proxy_headers()?.get(PROXY_AUTHENTICATE)
    /// }
    /// # let _ = challenge;
    /// ```
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

    /// Something took too long; [`timeout_kind`](Self::timeout_kind) says what.
    ///
    /// Usually the limit is the agent's own. For a connect, it may also be a limit below: the system's (`ETIMEDOUT`),
    /// or that of a `tower::timeout` or a `tokio::time::timeout` in the connector. For a whole request, it may be a
    /// limit above, if the error was [found](Self::find).
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.timeout_kind().is_some()
    }

    /// What took too long, if something did.
    #[must_use]
    pub fn timeout_kind(&self) -> Option<TimeoutKind> {
        match self.0.kind {
            Kind::Timeout(kind, _) => Some(kind),
            Kind::Connect { timed_out: true } => Some(TimeoutKind::Connect),
            Kind::Elapsed => Some(TimeoutKind::Request),
            _ => None,
        }
    }

    /// The limit that was exceeded, if [`is_timeout`](Self::is_timeout) is true and the limit is the agent's own.
    /// `None` if it is the limit of another layer, whose error does not contain its length.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        match self.0.kind {
            Kind::Timeout(_, after) => Some(after),
            _ => self.connect_error()?.timeout(),
        }
    }

    /// The request's own body failed, or is longer or shorter than its `Content-Length`. The connection is closed; the
    /// server may have seen a part of the request. The [`source`](StdError::source) is the body's own error.
    ///
    /// Such an error is never a reset of the connection or a timeout of the agent, and the request is not sent again.
    #[must_use]
    pub fn is_request_body(&self) -> bool {
        matches!(self.0.kind, Kind::RequestBody(_))
    }

    /// The connection was closed or reset before the head of a response. If it also [`is_reused`](Self::is_reused), the server
    /// has probably closed an idle connection at the moment when the request was sent.
    ///
    /// On a reused connection, `ETIMEDOUT`, `EHOSTUNREACH`, `ENETUNREACH` and `ENETDOWN` count as well, as in Go: the network
    /// path may have broken while the connection was idle. Only errors of the transport count, not those of the request's own
    /// body or of a layer.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        matches!(self.0.kind, Kind::Exchange)
            && self
                .source()
                .is_some_and(|error| chain::is_reset(error, self.is_reused()))
    }

    /// The connection was not made for this request; see [`ConnectionInfo::is_reused`].
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.0
            .connection
            .as_ref()
            .is_some_and(ConnectionInfo::is_reused)
    }

    /// The server has seen nothing of the request: it is safe to send the request again, whatever its method.
    ///
    /// This is the case if there was no connection, if the connection ended before it accepted the request, or if the
    /// first write failed before any byte was written. (A first write of more than 16 KiB counts as written in part,
    /// because a transport that encrypts may have sent one of its records.)
    ///
    /// # What the agent sends again by itself
    ///
    /// If the connection was reused, the agent sends such a request on another connection by itself, whatever its
    /// method, extensions and body; the caller does not notice. The frames that were already read from a streamed body
    /// are sent first, and then the rest of it.
    ///
    /// Over HTTP/2 it also sends again what the server has refused (feature `http2`: `is_refused`), up to seven times in a row.
    ///
    /// The caller gets this error if
    ///
    /// - the connection was made for this request: the server accepts connections and closes them, and may do so again;
    /// - the agent cannot recover the request: the transport accepts only one slice in each write
    ///   ([`is_write_vectored`](tokio::io::AsyncWrite::is_write_vectored) is `false`) and wrote nothing of a body of
    ///   more than 16 KiB, or the runtime of the connection no longer runs.
    ///
    /// In the second case, [`ReusedReset`](crate::retry::ReusedReset) sends a clone of the request.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        self.0.unsent || matches!(self.0.kind, Kind::Target(_))
    }

    /// The server has not acted on the request: it has seen nothing of it, or says so.
    pub(crate) fn is_untouched(&self) -> bool {
        #[cfg(feature = "http2")]
        if self.is_refused() {
            return true;
        }
        self.is_unsent()
    }

    /// It has failed one exchange, and its connection serves the others: the exchange was over a time limit, or its stream has
    /// ended alone.
    pub(crate) fn is_of_exchange(&self) -> bool {
        use TimeoutKind::{Inactivity, Request, Response};
        #[cfg(feature = "http2")]
        if self.is_of_stream() {
            return true;
        }
        matches!(
            self.0.kind,
            Kind::Timeout(Request | Response | Inactivity, _)
        )
    }

    /// The queue for a connection is full.
    #[must_use]
    pub fn is_queue_full(&self) -> bool {
        matches!(self.0.kind, Kind::QueueFull(_))
    }

    /// The agent was drained or destroyed.
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        matches!(self.0.kind, Kind::ShutDown)
    }

    /// The request cannot be sent as it is: it has no host, a scheme other than `http` and `https`, a version of HTTP that
    /// the agent does not speak or that its connection cannot carry, contradictory fields, a [`Route`](crate::extensions::Route) that
    /// the connector cannot follow, or a body that HTTP/1.0 cannot carry. The text says which. Nothing was sent.
    #[must_use]
    pub fn is_target(&self) -> bool {
        matches!(self.0.kind, Kind::Target(_))
    }

    /// The body of the response is longer than the limit that was passed to [`Body::bytes`](crate::Body::bytes), `text`
    /// or `json`; or the head has more fields ([`max_response_fields`](crate::KeepAliveLayer::max_response_fields)) or
    /// bytes ([`max_buf_size`](hyper::client::conn::http1::Builder::max_buf_size)) than allowed. Over HTTP/2, the head or
    /// the trailers have more bytes than allowed (feature `http2`: `Http2::max_header_list_size`, which says when this can
    /// be told).
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self.0.kind, Kind::TooLarge(_)) || self.has_large_head()
    }

    fn has_large_head(&self) -> bool {
        #[cfg(feature = "http2")]
        if self.has_large_fields() {
            return true;
        }
        matches!(self.0.kind, Kind::Exchange)
            && self.source().and_then(find).is_some_and(is_large_head)
    }

    /// The body of the response is complete, but it is not valid text or JSON as the caller asked for. The source says
    /// where it is invalid.
    #[must_use]
    pub fn is_decode(&self) -> bool {
        matches!(self.0.kind, Kind::Decode(_))
    }

    /// The operating system's error of the connect, a read or a write that failed; `None` if there is none. Errors of
    /// the request's own body do not count.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_keep_alive::BoxError> {
    /// use std::io::ErrorKind;
    ///
    /// use bytes::Bytes;
    /// use http_body_util::Empty;
    /// use tower::{ServiceBuilder, ServiceExt};
    /// use tower_keep_alive::KeepAliveLayer;
    /// use tower_keep_alive::connect::TcpConnector;
    ///
    /// let client = ServiceBuilder::new()
    ///     .layer(KeepAliveLayer::<Empty<Bytes>>::new())
    ///     .service(TcpConnector::new());
    /// # let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    /// let request = http::Request::get(format!("http://127.0.0.1:{port}/")).body(Empty::new())?;
    /// let error = client.oneshot(request).await.unwrap_err();
    /// assert!(error.is_connect());
    /// let io = error.io_error().expect("the system refused");
    /// assert_eq!(io.kind(), ErrorKind::ConnectionRefused);
    /// assert!(io.raw_os_error().is_some());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        if self.is_request_body() {
            return None;
        }
        chain::io_error(self.source()?)
    }

    /// An error of one of this crate's connectors, whose text is part of this error's text.
    pub(super) fn connect_error(&self) -> Option<&ConnectError> {
        match self.0.kind {
            Kind::Connect { .. } => self.0.source.as_ref()?.downcast_ref(),
            _ => None,
        }
    }

    /// The connection that failed, if there was one.
    #[must_use]
    pub fn connection(&self) -> Option<&ConnectionInfo> {
        self.0.connection.as_ref()
    }
}

/// hyper has a public predicate for this error in requests only, so that of a response is recognised by its text.
pub(super) fn is_large_head(error: &hyper::Error) -> bool {
    error.is_parse() && error.to_string() == "message head is too large"
}

//! A connection pool for hyper and reqwest clients, built from tower layers, modelled on Node's `http.Agent` and
//! agentkeepalive. It reuses connections, limits them per host and in total, queues callers, closes connections by idle time,
//! age and number of uses, and counts them. It checks a connection before each reuse.
//!
//! - [Common tasks](guides::common_tasks): JSON, redirects, gzip, cookies, uploads and proxies, as code to copy.
//! - Guides for users of [Node](guides::from_agentkeepalive), [hyper-util](guides::from_hyper_util),
//!   [reqwest](guides::from_reqwest) and [axum](guides::recipes#in-an-axum-service).
//! - [Recipes](guides::recipes) with tower's layers: retries, timeouts, load balancing; a reverse proxy with [`forward`].
//! - [A name with many servers](guides::many_addresses): how to spread the load, and to follow DNS.
//! - [What the compiler's messages mean](guides::when_a_stack_does_not_compile).
//!
//! # Quick start
//!
//! ```
//! use tower_keep_alive::KeepAlive;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower_keep_alive::BoxError> {
//! # let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let url = format!("http://{}/", listener.local_addr()?);
//! # tokio::spawn(async { axum::serve(listener, app).await });
//! let agent = KeepAlive::new(); // http and https, agentkeepalive's defaults
//!
//! for expected in [false, true] {
//!     let response = agent.get(url.as_str()).await?;
//!     assert_eq!(response.body().connection().is_reused(), expected);
//!     // The end of the body returns the connection. This body may have at most 1 MiB.
//!     let text = response.into_body().text(1024 * 1024).await?;
//!     assert_eq!(text, "hello");
//! }
//! assert_eq!(agent.handle().status().created, 1);
//! # Ok(())
//! # }
//! ```
//!
//! [`KeepAlive::builder`] has the settings. [`KeepAliveLayer`] is the same stack as a tower layer, over any connector and for
//! request bodies of any type.
//!
//! # Overview
//!
//! | group | where |
//! |---|---|
//! | the client | here: [`KeepAlive`], its settings in [`KeepAliveLayer`] and for one host in [`HostSettings`], bodies, errors, the [`AgentHandle`]; settings of one request in [`extensions`]; what the handle reports in [`status`]; [`retry`] and [`forward`] above it |
//! | the layers | [`layers`]: each step of the stack as a layer of its own, for stacks of your own |
//! | connections of your own | [`custom`]: [`Poolable`](custom::Poolable), and what it is written with |
//! | transports | [`connect`]: TCP, Unix sockets, TLS, proxies, connectors of other crates, each a service of [`Destination`](connect::Destination)s; [`discover`]: a service for each address of a name |
//!
//! # The stack
//!
//! [`KeepAliveLayer`] is these layers with their defaults. A layer that sets a limit can be left out, doubled and made
//! optional, and stands below or above Checkout; layers of your own can stand between any two:
//!
//! | from the top | a service of | what it does |
//! |---|---|---|
//! | [`ExchangeLayer`](layers::ExchangeLayer) | `Request<B>` → `Response<Body>` | holds a connection until the end of the response body |
//! | [`CheckinLayer`](layers::CheckinLayer) | target → [`Lease`](layers::Lease) | returns the connection to the pool after its use |
//! | [`CheckoutLayer`](layers::CheckoutLayer) | target → connection | takes an idle connection, makes a new one, or waits in the queue |
//! | [`IdleEvictionLayer`](layers::IdleEvictionLayer), [`TtlLayer`](layers::TtlLayer), [`MaxUsesLayer`](layers::MaxUsesLayer), [`ActiveTimeoutLayer`](layers::ActiveTimeoutLayer) | target → connection | limit how long a connection is kept |
//! | [`HandshakeLayer`](layers::HandshakeLayer) | target → connection | speaks HTTP on a transport |
//! | [`connect::TlsLayer`] | target → transport | speaks TLS for `https` |
//! | [`connect::TcpConnector`], or any `MakeConnection` | target → transport | opens a transport |
//!
//! Everything between `HandshakeLayer` and `ExchangeLayer` also works for connections of other protocols: implement
//! [`Poolable`](custom::Poolable).
//!
//! A pool belongs to one connector: each service that a layer makes has a pool of its own, and the layer's handle covers all
//! of them. Two requests share connections if they have the same [`Key`].
//!
//! # Cancel safety
//!
//! Every future of this crate may be dropped at any time. The pool loses no connection and no permit by that.
//!
//! - In the queue: the caller loses its place. A connection that it was given at that moment goes to the next caller.
//! - While connecting: the connect, which runs in a task of its own, goes on if another caller waits for it, and is cancelled
//!   otherwise.
//! - Between the request and the head of the response: over HTTP/1 the connection is closed, because there is no other way to
//!   cancel a request; over HTTP/2 the request's stream is reset. The server may or may not have acted on the request.
//! - In the middle of the response body: over HTTP/1 the connection is closed, unless the rest of the body had already arrived;
//!   over HTTP/2 the stream is reset.
//! - After the last frame of the body: nothing. The connection returned to the pool with that frame.
//!
//! # Timeouts
//!
//! | setting | what it covers | default | [`TimeoutKind`] | elsewhere |
//! |---|---|---|---|---|
//! | [`request_timeout`](KeepAliveLayer::request_timeout), [`RequestTimeout`](extensions::RequestTimeout) | the whole exchange, from the first poll of its future to the end of the response body | none | `Request` | reqwest: `timeout`; Go: `Client.Timeout` |
//! | [`checkout_timeout`](KeepAliveLayer::checkout_timeout) | the time in the queue for a connection | none | `Checkout` | – |
//! | [`connect_timeout`](KeepAliveLayer::connect_timeout) | one connect: DNS, TCP, TLS | the active timeout | `Connect` | reqwest: `connect_timeout`; Go: `Dialer.Timeout` and `TLSHandshakeTimeout` |
//! | [`expect_continue_timeout`](KeepAliveLayer::expect_continue_timeout) | the wait for a 100 before the request's body is sent; no error | 1 s | – | Go: `ExpectContinueTimeout` |
//! | [`response_timeout`](KeepAliveLayer::response_timeout), [`ResponseTimeout`](extensions::ResponseTimeout) | from the end of the request to the end of the head of the response | none | `Response` | Go: `ResponseHeaderTimeout`; undici: `headersTimeout` |
//! | [`active_timeout`](KeepAliveLayer::active_timeout), [`InactivityTimeout`](extensions::InactivityTimeout) | silence while the client waits for the server, including the response body | twice the idle timeout, 8 s at least | `Inactivity` | agentkeepalive: `timeout`; reqwest: `read_timeout`; undici: `bodyTimeout` |
//! | [`idle_timeout`](KeepAliveLayer::idle_timeout) | the time that a connection is idle; no error | 4 s | – | agentkeepalive: `freeSocketTimeout`; Go: `IdleConnTimeout`; reqwest: `pool_idle_timeout` |
//!
//! Every limit except the last two runs continuously from its beginning to its end, whatever happens in between. The
//! extensions set the limit for one request. If [`Error::is_unsent`] is true for a request that timed out, the server
//! has seen nothing of it; otherwise its connection is closed, and the next caller in the queue gets its place, whether
//! or not the future or the body is polled.
//!
//! # A future that is not polled
//!
//! A future makes progress only while it is polled. It is easy to leave one unpolled while it waits in the queue or connects:
//! in an arm of a `select!` whose other arm runs its handler, in a `buffered` stream or a `FuturesUnordered` whose consumer
//! does something else, in a `join_all` behind a future that blocks its thread, in a runtime that nobody drives.
//!
//! Such a future holds up no other caller:
//!
//! - A connection, or the permit to make one, that the future was given and does not take goes to the next caller after 5 ms
//!   ([`PoolConfig::hand_over_timeout`](layers::PoolConfig::hand_over_timeout)). If no caller waits, the connection becomes idle, and ages.
//! - A connect that has begun goes on in a task of its own. The connection is kept for the future first, then for others.
//! - If a connection has to make room, and its own runtime does not close it within 50 ms, the caller that needs the room
//!   closes it. The same holds for a connect whose time is up. A transport that is not from [`connect`] has to say how it is
//!   closed, by [`Probe::with_close`](connect::Probe::with_close); otherwise the caller that needs the room gets an error whose
//!   [`timeout_kind`](Error::timeout_kind) is [`Close`](TimeoutKind::Close) before the connect timeout is over.
//! - An exchange in a runtime that is not driven ends at its own limits: the caller that is blocked for its place ends it, at
//!   most a quarter and 200 ms after its [active timeout](KeepAliveLayer::active_timeout), or 200 ms after its request timeout or
//!   response timeout. The future fails with the same error as in a runtime that is driven.
//!
//! The future keeps its place: when it is polled again, it is first in the queue. But it waits longer, and some exchanges
//! keep their connection in a runtime that is not driven: those without limits, those over HTTP/2, and those whose response
//! has begun and is not read, unless they have a request timeout. So spawn whatever has to make progress by itself, or read
//! each response to its end before you await something else:
//!
//! ```
//! # async fn both(client: tower_keep_alive::KeepAlive, url: String) -> Result<(), tower_keep_alive::BoxError> {
//! let fetch = tokio::spawn(async move { client.get(url).await?.into_body().bytes(1024 * 1024).await });
//! // Whatever happens here, the request goes on.
//! let bytes = fetch.await??;
//! # let _ = bytes;
//! # Ok(())
//! # }
//! ```
//!
//! # Requirements
//!
//! A tokio runtime with its I/O and time drivers, for the tasks that drive connections and for the timers.
//!
//! # Metrics and spans
//!
//! With the feature `metrics`, these metrics are sent to the recorder that the program installs before its first
//! request. Without a recorder they allocate nothing and cost a warm request some 100 instructions, of 20,000. The
//! recorder gets their units and descriptions. Each metric
//! has the labels `server.address`, `server.port` and `url.scheme`, and `agent` if the agent has a
//! [`name`](KeepAliveLayer::name). The first 1,000 hosts of an agent have labels of their own; all others share the
//! address `_OTHER`, because hosts may come from untrusted URLs.
//!
//! | name | kind, unit | more labels | what |
//! |---|---|---|---|
//! | `http.client.open_connections` | gauge, connections | `http.connection.state`: `active`, `idle`; the protocol | connections open now; those that are being made are active, without a protocol |
//! | `http.client.connection.duration` | histogram, seconds | the protocol | how long a connection was open |
//! | `http.client.request.time_in_queue` | histogram, seconds | the protocol | how long a caller waited for its connection |
//! | `tower_keep_alive.connections.created` | counter, connections | | connects begun |
//! | `tower_keep_alive.connections.reused` | counter, checkouts | | checkouts that got a connection not made for them |
//! | `tower_keep_alive.connections.stale` | counter, connections | | connections found closed just before a reuse |
//! | `tower_keep_alive.connections.closed` | counter, connections | `reason`: the text of [`CloseReason`], or `detached` | connections closed |
//! | `tower_keep_alive.streams.in_use` | gauge, streams | the protocol | HTTP/2 streams in use now |
//! | `tower_keep_alive.streams.capacity` | gauge, streams | the protocol | HTTP/2 streams that the connections can carry at the same time, as far as their servers have said; those that drain do not count |
//! | `tower_keep_alive.addresses.ejected` | counter, ejections | `reason`: `consecutive`, `failure_share` | addresses taken out because too much failed there; see [`Ejection`] |
//! | `tower_keep_alive.addresses.readmitted` | counter, addresses | | ejected addresses that were found to serve again |
//! | `tower_keep_alive.addresses.left_out` | gauge, addresses | | addresses of the keys in use that get no new connections now: the last connect has failed, or they are ejected; see [`LeftOut`](status::LeftOut) |
//! | `tower_keep_alive.idle_limits.learned` | counter, limits | | limits for idle connections that were learned from a server |
//!
//! The protocol is OpenTelemetry's `network.protocol.name`, which is `http`, and `network.protocol.version`: `1.1`, also for
//! servers that answer in HTTP/1.0, or `2`.
//!
//! With the feature `tracing`, at the level `debug` and with the target `tower_keep_alive`:
//!
//! | what | fields |
//! |---|---|
//! | the span `checkout` | `agent`, `key`, `connection.id`, `network.protocol.name`, `network.protocol.version`, `reused`, `waited`, and for a new connection `dns`, `connect`, `tunnel`, `tls`: how long these parts took |
//! | an event for each [`EventKind`] | `agent`, `key`, `connection.id`, `network.protocol.name`, `network.protocol.version`, and those of the kind |
//! | the event `exchanged`, if [timings](KeepAliveLayer::timings) are recorded | `key`, `connection.id`, `network.protocol.name`, `network.protocol.version`, `stream.id` over HTTP/2, and the parts of [`Timings`] |
//!
//! The version is `1.0`, `1.1` or `2` here. An event that has no connection yet has neither its number nor a protocol.
//!
//! # HTTP/2
//!
//! With the feature `http2` the client in one call offers both versions to servers of `https`, and stacked layers speak what
//! [`KeepAliveLayer::protocol`] or [`HandshakeLayer::protocol`](layers::HandshakeLayer::protocol) says. Requests then share a connection. As with HTTP/1, limits
//! count connections, callers wait in one queue, and a connection that is too old, or has had all its uses, closes after its last
//! request. What differs:
//!
//! - A request or a response that is dropped early resets its stream; its connection lives on.
//! - An idle connection is one without requests. While a connection has room, no other one is opened.
//! - While it is not known which version a host of `https` speaks, one connect is under way for all who wait for it.
//! - A request whose version is [`HTTP_2`](http::Version::HTTP_2) is sent over HTTP/2 or fails. `HTTP_11`, which every request has
//!   by default, leaves the choice to the connection: see [`ExchangeLayer::protocol`](layers::ExchangeLayer::protocol).
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `tls`, on by default | `https`, by [`connect::TlsLayer`]; needs a C compiler |
//! | `serde` | [`Status`](status::Status), [`Key`] and [`CloseReason`] serialize; a status to agentkeepalive's object |
//! | `json` | [`Body::json`]: a response body as JSON |
//! | `http2` | HTTP/2, by [`Protocol`] and `KeepAliveLayer::http2`; the client of [`KeepAlive::new`] uses it for `https` servers that choose it |
//! | `proxy` | [`connect::ProxyLayer`]: requests through HTTP and SOCKS proxies |
//! | `tracing` | a span for each checkout, and an event for each change of a connection |
//! | `metrics` | counters, gauges and histograms through the `metrics` facade |
//! | `hickory` | `connect::HickoryResolver`, whose answers have the TTLs of DNS |
//! | `reqwest` | the module `reqwest`: reqwest's requests and responses over the agent |
//! | `reqwest-middleware` | `reqwest`, and the last middleware of reqwest-middleware's client, with a strategy for reqwest-retry |
#![cfg_attr(docsrs, feature(doc_cfg))]

mod agent;
mod checkin;
mod checkout;
mod clock;
pub mod connect;
mod connection;
pub mod discover;
mod error;
mod exchange;
mod expiry;
pub mod forward;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod http1;
#[cfg(feature = "http2")]
mod http2;
mod keep_alive;
mod pool;
#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
pub mod reqwest;
pub mod retry;
mod sync;
mod target;

// What requests and responses are made of: one dependency beside tokio is enough to begin.
#[doc(no_inline)]
pub use bytes;
#[doc(no_inline)]
pub use http;
#[doc(no_inline)]
pub use http_body_util;

pub use agent::{
    AgentHandle, Drained, Ejection, EjectionReason, Event, EventKind, FollowDns, HostSettings,
    Outcome, PrewarmError, Spread,
};
pub use connection::close_reason::CloseReason;
pub use connection::info::ConnectionInfo;
pub use connection::outcome_observer::Verdict;
pub use connection::timings::Timings;
#[cfg(feature = "tls")]
pub use connection::tls_info::TlsInfo;
pub use error::{BoxError, Error, TimeoutKind};
pub use exchange::Body;
#[cfg(feature = "http2")]
#[cfg_attr(docsrs, doc(cfg(feature = "http2")))]
pub use http2::Http2;
pub use keep_alive::{KeepAlive, KeepAliveFuture, KeepAliveLayer, RequestBody, RequestFuture};
pub use pool::Scheduling;
pub use target::key::Key;
pub use target::protocol::Protocol;

/// Connections of your own: what the pool needs to know of a connection in order to keep it.
///
/// The pool keeps connections of any protocol that implement [`Poolable`](custom::Poolable), for targets of any type that
/// implements [`Target`](custom::Target).
/// The [layers] between the handshake and the exchange work for them as for HTTP.
pub mod custom {
    pub use crate::clock::{Clock, Moment};
    pub use crate::connection::lifespan::{Deadline, Lifespan};
    pub use crate::connection::poolable::{Liveness, Poolable};
    pub use crate::connection::shared::{ChangeHook, CloseHook, TransportGuard};
    pub use crate::target::key::KeyRef;
    pub use crate::target::{Reuse, Target};
}

/// What a request can carry in its extensions: settings for this request alone.
///
/// ```
/// use http::Request;
/// use tower_keep_alive::extensions::{OneShot, RequestTimeout};
/// use std::time::Duration;
///
/// let mut request = Request::get("http://example.com/").body(()).unwrap();
/// request.extensions_mut().insert(RequestTimeout(Duration::from_secs(5)));
/// request.extensions_mut().insert(OneShot);
/// ```
pub mod extensions {
    pub use crate::target::extensions::{
        InactivityTimeout, OneShot, Partition, RecordTimings, RequestTimeout, ResponseTimeout,
    };
    pub use crate::target::route::{Family, Route};
}

/// The layers of the stack, for stacks of your own.
///
/// [`KeepAliveLayer`] is these layers with their defaults: see [the stack](crate#the-stack).
pub mod layers {
    pub use crate::checkin::{Checkin, CheckinFuture, CheckinLayer, Lease};
    pub use crate::checkout::{Checkout, CheckoutFuture, CheckoutLayer};
    pub use crate::error::{CheckoutError, Denied, SendError};
    pub use crate::exchange::{Exchange, ExchangeFuture, ExchangeLayer};
    pub use crate::expiry::{
        ActiveTimeoutLayer, IdleEvictionLayer, Limited, LimitedFuture, MaxUsesLayer, TtlLayer,
    };
    pub use crate::handshake::{
        Handshake, HandshakeFuture, HandshakeLayer, HttpConnection, HttpFuture, IncomingBody,
    };
    pub use crate::pool::{CheckedOut, Pool, PoolConfig};
}

/// What [`AgentHandle::status`](crate::AgentHandle::status) and
/// [`AgentHandle::connections`](crate::AgentHandle::connections) return.
pub mod status {
    pub use crate::agent::{
        AddressStatus, ConnectionState, ConnectionStatus, LearnedIdleLimit, LeftOut, LeftOutReason,
        LookupStatus, ProtocolStatus, Status,
    };
}

/// Guides for newcomers, recipes, and what to do when a stack does not compile.
#[cfg(doc)]
pub mod guides {
    /// From Node's `http.Agent` and agentkeepalive.
    #[doc = include_str!("../docs/from-agentkeepalive.md")]
    pub mod from_agentkeepalive {}

    /// From hyper-util's `Client`.
    #[doc = include_str!("../docs/from-hyper-util.md")]
    pub mod from_hyper_util {}

    /// From reqwest's `Client`.
    // Its code needs more than this crate has: the workspace's package `integrations` compiles it.
    #[cfg(not(doctest))]
    #[doc = include_str!("../docs/from-reqwest.md")]
    pub mod from_reqwest {}

    /// Common tasks: JSON, forms, authorization, redirects, compression, cookies, uploads, timeouts, proxies, streams.
    // Its code needs more than this crate has: the workspace's package `integrations` compiles it.
    #[cfg(not(doctest))]
    #[doc = include_str!("../docs/common-tasks.md")]
    pub mod common_tasks {}

    /// Many addresses behind one name.
    #[doc = include_str!("../docs/many-addresses.md")]
    pub mod many_addresses {}

    /// Recipes for axum, and with tower's own layers.
    #[doc = include_str!("../docs/recipes.md")]
    pub mod recipes {}

    /// When a stack does not compile.
    // The workspace's package `integrations` compiles its code, and compares the messages.
    #[cfg(not(doctest))]
    #[doc = include_str!("../docs/when-a-stack-does-not-compile.md")]
    pub mod when_a_stack_does_not_compile {}
}

// The README's code is compiled with the doctests.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct ReadmeDoctests;

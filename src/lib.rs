//! Node's `http.Agent`, with what agentkeepalive adds, as tower layers for hyper clients: connections are pooled for
//! each host, reused, queued for, limited, aged, evicted and counted, and never trusted blindly.
//!
//! [Common tasks](guides::common_tasks): JSON, redirects, gzip, cookies, uploads, proxies, each as code to copy.
//!
//! Where you come from: [Node](guides::from_agentkeepalive), [hyper-util](guides::from_hyper_util),
//! [reqwest](guides::from_reqwest), [axum](guides::recipes#in-an-axum-service). A reverse proxy: [`forward`]. With tower's
//! layers around it: [recipes](guides::recipes). When the compiler objects:
//! [what it means](guides::when_a_stack_does_not_compile).
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
//!     // The end of the body gives the connection back. This one may have a mebibyte at most.
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
//! # The stack
//!
//! [`KeepAliveLayer`] is these layers with their defaults. A layer that sets a limit can be left out, doubled and made
//! optional, and stands below or above Checkout; layers of your own can stand between any two:
//!
//! | from the top | a service of | says or does |
//! |---|---|---|
//! | [`ExchangeLayer`] | `Request<B>` → `Response<Body>` | holds a connection to the end of the response body |
//! | [`CheckinLayer`] | target → [`Lease`] | gives the connection back when its use is over |
//! | [`CheckoutLayer`] | target → connection | takes an idle one, or makes one, or waits its turn |
//! | [`IdleEvictionLayer`], [`TtlLayer`], [`MaxUsesLayer`], [`ActiveTimeoutLayer`] | target → connection | how long a connection is kept |
//! | [`HandshakeLayer`] | target → connection | HTTP/1 on a transport |
//! | [`connect::TlsLayer`] | target → transport | TLS for `https` |
//! | [`connect::TcpConnector`], or any `MakeConnection` | target → transport | |
//!
//! Everything between Handshake and Exchange works for connections that are not HTTP as well: implement [`Poolable`].
//!
//! A pool belongs to one connector: each service that a layer makes has a pool of its own, and the handle sums over
//! them. What makes two requests share connections is their [`Key`].
//!
//! # Cancel safety
//!
//! Every future here may be dropped at any time; nothing of the pool is lost by it.
//!
//! - In line: the place is lost. What had been given to the caller in that moment passes to the next.
//! - While connecting: the connect, which has a task of its own, goes on if somebody waits whom it would serve, and is given up otherwise.
//! - Between sending and the head of the response: the connection is closed, as HTTP/1 has no other way to give up a
//!   request. Whether the server has acted on it cannot be known.
//! - In the middle of the response body: the connection is closed, unless the rest of the body had arrived already.
//! - After the body's last frame: nothing. The connection went back with that frame.
//!
//! # Timeouts
//!
//! | setting | what it covers | default | [`TimeoutKind`] | elsewhere |
//! |---|---|---|---|---|
//! | [`request_timeout`](KeepAliveLayer::request_timeout), [`RequestTimeout`] | the whole exchange, from the first poll of its future to the end of the response body | none | `Request` | reqwest: `timeout`; Go: `Client.Timeout` |
//! | [`checkout_timeout`](KeepAliveLayer::checkout_timeout) | the time in line for a connection | none | `Checkout` | – |
//! | [`connect_timeout`](KeepAliveLayer::connect_timeout) | one connect: DNS, TCP, TLS | the active timeout | `Connect` | reqwest: `connect_timeout`; Go: `Dialer.Timeout` and `TLSHandshakeTimeout` |
//! | [`expect_continue_timeout`](KeepAliveLayer::expect_continue_timeout) | the wait for a 100 before the request's body is sent; no error | 1 s | – | Go: `ExpectContinueTimeout` |
//! | [`response_timeout`](KeepAliveLayer::response_timeout), [`ResponseTimeout`] | from the end of the request to the end of the head of the response | none | `Response` | Go: `ResponseHeaderTimeout`; undici: `headersTimeout` |
//! | [`active_timeout`](KeepAliveLayer::active_timeout), [`InactivityTimeout`] | silence while the server is waited for, the response body included | twice the idle timeout, 8 s at least | `Inactivity` | agentkeepalive: `timeout`; reqwest: `read_timeout`; undici: `bodyTimeout` |
//! | [`idle_timeout`](KeepAliveLayer::idle_timeout) | the time that a connection is idle; no error | 4 s | – | agentkeepalive: `freeSocketTimeout`; Go: `IdleConnTimeout`; reqwest: `pool_idle_timeout` |
//!
//! All but the last two are counted from a beginning to an end, whatever happens between. The extensions set the limit of one
//! request. A request that fails by one of them was not seen by the server if [`Error::is_unsent`] says so; otherwise its
//! connection is closed, and the next in line has its place, whether or not the future or the body is polled.
//!
//! # A future that is not polled
//!
//! A future does something only while it is polled. One that waits in line, or connects, and is not polled for a while is
//! an easy mistake to make: an arm of a `select!` whose other arm runs its handler, what is left in a `buffered` stream or a
//! `FuturesUnordered` while its consumer does something else, a `join_all` behind a future that blocks its thread, a runtime
//! that is kept and not driven.
//!
//! Nobody else waits for such a future:
//!
//! - A connection, or the right to make one, that it was given and does not come for goes to the next in line after 5 ms
//!   ([`PoolConfig::hand_over_timeout`]). If nobody waits, the connection is idle, and ages.
//! - A connect that has begun goes on in a task of its own. What it makes is left for the future, and then for others.
//! - A connection whose place is needed is closed from where it is needed, if its own runtime does not close it within
//!   50 ms. The same goes for a connect whose time is up. A transport that is not of [`connect`] needs a way to be closed for
//!   that, [`Probe::with_close`](connect::Probe::with_close); without one, whoever needs the place gets an error whose
//!   [`timeout_kind`](Error::timeout_kind) is [`Close`](TimeoutKind::Close) before the connect timeout is over.
//!
//! The future keeps its place: as soon as it is polled it is the first in line again, and nothing is lost. It does wait
//! longer, though, and a response that it has begun to read keeps its connection for as long as it is not read. So spawn what
//! has to go on by itself, or read each response to its end before something else is awaited:
//!
//! ```
//! # use bytes::Bytes;
//! # use http::Request;
//! # use http_body_util::{BodyExt, Empty};
//! # use tower::ServiceExt;
//! # use tower_keep_alive::{BoxError, KeepAlive, connect::TcpConnector};
//! # async fn both<C>(client: KeepAlive<C, Empty<Bytes>>, url: String) -> Result<(), BoxError>
//! # where
//! #     KeepAlive<C, Empty<Bytes>>: tower::Service<Request<Empty<Bytes>>, Response = http::Response<tower_keep_alive::Body>, Error = tower_keep_alive::Error, Future: Send> + Clone + Send + 'static,
//! # {
//! let fetch = tokio::spawn(async move {
//!     let response = client.oneshot(Request::get(url).body(Empty::new())?).await?;
//!     Ok::<_, BoxError>(response.into_body().collect().await?.to_bytes())
//! });
//! // Whatever happens here, the request goes on.
//! let bytes = fetch.await??;
//! # let _ = bytes;
//! # Ok(())
//! # }
//! ```
//!
//! # What is needed
//!
//! A tokio runtime with its time driver, for the tasks that drive connections and for the timers.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `tls`, on by default | `https`, by [`connect::TlsLayer`]; needs a C compiler |
//! | `serde` | [`Status`], [`Key`] and [`CloseReason`] serialize; a status to agentkeepalive's object |
//! | `json` | [`Body::json`]: a response body as JSON |
//! | `proxy` | [`connect::ProxyLayer`], requests through proxies of HTTP and of SOCKS |
//! | `tracing` | a span for each checkout, and an event for whatever happens to a connection |
//! | `metrics` | counters, gauges and histograms through the `metrics` facade |
//! | `reqwest` | the module `reqwest`: requests and responses of reqwest's over the agent |
//! | `reqwest-middleware` | `reqwest`, and the last middleware of reqwest-middleware's client, with a strategy for reqwest-retry |
#![cfg_attr(docsrs, feature(doc_cfg))]

mod agent;
mod checkin;
mod checkout;
mod clock;
pub mod connect;
mod connection;
mod count_connects;
mod error;
mod exchange;
mod expiry;
pub mod forward;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod http1;
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
    AgentHandle, ConnectionState, ConnectionStatus, Drained, Event, EventKind, HostSettings,
    PrewarmError, Status,
};
pub use checkin::{Checkin, CheckinFuture, CheckinLayer, Lease};
pub use checkout::{Checkout, CheckoutFuture, CheckoutLayer};
pub use clock::{Clock, Moment};
pub use connection::close_reason::CloseReason;
pub use connection::info::ConnectionInfo;
pub use connection::lifespan::{Deadline, Lifespan};
pub use connection::poolable::{Liveness, Poolable};
pub use connection::shared::{CloseHook, TransportGuard};
pub use connection::timings::Timings;
#[cfg(feature = "tls")]
pub use connection::tls_info::TlsInfo;
pub use count_connects::{Connects, CountConnects, CountConnectsFuture, CountConnectsLayer};
pub use error::{BoxError, CheckoutError, Denied, Error, SendError, TimeoutKind};
pub use exchange::{Body, Exchange, ExchangeFuture, ExchangeLayer};
pub use expiry::{
    ActiveTimeout, ActiveTimeoutLayer, ExpiryFuture, IdleEviction, IdleEvictionLayer, MaxUses,
    MaxUsesLayer, Ttl, TtlLayer,
};
pub use http1::{Handshake, HandshakeFuture, HandshakeLayer, Http1Connection, Http1Future};
pub use keep_alive::{KeepAlive, KeepAliveFuture, KeepAliveLayer, RequestBody};
pub use pool::{CheckedOut, Pool, PoolConfig, Scheduling};
pub use target::extensions::{
    InactivityTimeout, OneShot, Partition, RecordTimings, RequestTimeout, ResponseTimeout,
};
pub use target::key::{Key, KeyRef};
pub use target::route::{Family, Route};
pub use target::{Destination, Reuse, Target};

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

//! Forwarding: a reverse proxy as a layer.
//!
//! [`ForwardLayer`] sits between a server and a client. It rewrites each request so that it may be sent to an
//! [`Upstream`], and each response so that it may be sent back to the caller. Hop-by-hop fields stay on the connection
//! that they belong to (RFC 9110 §7.6.1): a caller's `Connection: close` closes the caller's connection, and the agent
//! keeps its connection to the upstream.
//!
//! ```
//! use axum::Router;
//! use axum::error_handling::HandleErrorLayer;
//! use axum::http::StatusCode;
//! use tower::ServiceBuilder;
//! use tower_keep_alive::connect::TcpConnector;
//! use tower_keep_alive::forward::ForwardLayer;
//! use tower_keep_alive::{Error, KeepAliveLayer};
//! # use axum::body::Body;
//! # use http::Request;
//! # use http_body_util::BodyExt;
//! # use tower::ServiceExt;
//!
//! async fn refusal(error: Error) -> (StatusCode, String) {
//!     let status = match error.is_timeout() {
//!         true => StatusCode::GATEWAY_TIMEOUT,
//!         false => StatusCode::BAD_GATEWAY,
//!     };
//!     (status, error.to_string())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower_keep_alive::BoxError> {
//! # let upstream = Router::new().fallback(|uri: http::Uri| async move { uri.to_string() });
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let base = format!("http://{}/base", listener.local_addr()?);
//! # tokio::spawn(async { axum::serve(listener, upstream).await });
//! # let base = &*base;
//! # let agent = KeepAliveLayer::new();
//! # let handle = agent.handle();
//! # /*
//! let base = "http://127.0.0.1:3000/base";
//! let agent = KeepAliveLayer::new();
//! # */
//! let upstream = ServiceBuilder::new()
//!     .layer(HandleErrorLayer::new(refusal))
//!     .layer(ForwardLayer::to(base)?)
//!     .layer(agent)
//!     .service(TcpConnector::new());
//! let app: Router = Router::new().fallback_service(upstream);
//!
//! # for _ in 0..2 {
//! let request = Request::get("/here?q=1").header("connection", "close").body(Body::empty())?;
//! let response = app.clone().oneshot(request).await?;
//! let body = response.into_body().collect().await?.to_bytes();
//! assert_eq!(body, "/base/here?q=1");
//! # }
//! # assert_eq!(handle.status().created, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Requests
//!
//! - The upstream's base path and query are put [in front of](Upstream::join) the request's path and query. The version
//!   is set to HTTP/1.1, whatever version the request came in with.
//! - These fields are removed: `Connection` and every field that it names, `Keep-Alive`, `Proxy-Connection`,
//!   `Proxy-Authorization`, `Proxy-Authenticate`, `Proxy-Authentication-Info`, `TE`, `Transfer-Encoding`, `Upgrade` and
//!   `HTTP2-Settings`. A `Connection` field cannot have `Host` or `Content-Length` removed. `TE: trailers` is sent on,
//!   with the `Connection: te` that it requires.
//! - `Trailer` is kept: RFC 9110 §6.6.2 does not count it among the hop-by-hop fields, and hyper sends only trailers
//!   that were announced.
//! - `Host` is set to the upstream's, unless [`preserve_host`](ForwardLayer::preserve_host) is set.
//! - Several `Cookie` fields of an HTTP/2 request are joined into one (RFC 9113 §8.2.3).
//! - A body of unknown length is sent in chunks, also with a GET.
//! - Everything else is passed on unchanged, including `Expect` and the request's extensions: a [`Route`](crate::extensions::Route)
//!   or a [`Partition`](crate::extensions::Partition) that an outer layer has set reaches the agent.
//!
//! # Responses
//!
//! The same fields are removed. The response is marked as HTTP/1.1, and the server in front sends it in the version of
//! its own connection. Status, body, trailers and extensions are passed on. Interim responses (1xx) are not: hyper's
//! client does not report them.
//!
//! # Upgrades
//!
//! A request with `Connection: upgrade` and `Upgrade` is sent on with these two fields. If the upstream answers 101
//! with a protocol that the request offered, the layer connects the two streams in a task. When one side stops sending,
//! the task shuts down the other side's write half; the task ends when both sides have stopped, or when either fails.
//! The task has no timeout of its own: TCP keep-alive detects a peer that has vanished. A 101 that does not match the
//! request is replaced by a 502 without a body. `h2c` is never passed on, because no layer could inspect what is sent
//! after such an upgrade. [`upgrades(false)`](ForwardLayer::upgrades) passes no upgrade on.
//!
//! A `CONNECT` is sent to the upstream as a request for the upstream itself, never for a host that the caller chose. If
//! the upstream answers with a 2xx, the caller gets a 501: no tunnel is made.
//!
//! # Security
//!
//! - The base path of an upstream does not confine requests to it: dot segments (`/../`) and percent-encoded characters
//!   are passed on unchanged, and the upstream may resolve them to a path outside of the base path. If only a part of
//!   an upstream may be reached, check the path above this layer.
//! - `X-Forwarded-For`, `Forwarded` and similar fields are passed on like any other field unless
//!   [`forwarded_for`](ForwardLayer::forwarded_for), [`forwarded_host`](ForwardLayer::forwarded_host) or
//!   [`forwarded_proto`](ForwardLayer::forwarded_proto) is set. If one of them is set, all such fields of the caller
//!   are removed first, because any client can forge them. Behind a proxy of your own,
//!   [`trust_forwarded`](ForwardLayer::trust_forwarded) keeps them.
//! - Forwarding loops are not detected.

mod fields;
mod forwarded;
mod future;
mod layer;
mod message;
mod service;
mod upgrade;
mod upstream;

pub use future::ForwardFuture;
pub use layer::ForwardLayer;
pub use service::Forward;
pub use upstream::{ConfigError, Upstream};

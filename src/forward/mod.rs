//! Forwarding: a reverse proxy as a layer.
//!
//! [`ForwardLayer`] stands between a server and a client. It rewrites each request so that it may be sent to an
//! [`Upstream`], and each response so that it may be sent back: what belongs to one connection alone stays on that
//! connection (RFC 9110 §7.6.1). A caller's `Connection: close` then closes the caller's connection, and the agent keeps
//! its own.
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
//! - The target is [joined](Upstream::join) to the upstream's. The version is HTTP/1.1, whatever it came in by.
//! - These fields are removed: those that `Connection` names, `Connection`, `Keep-Alive`, `Proxy-Connection`,
//!   `Proxy-Authorization`, `Proxy-Authenticate`, `Proxy-Authentication-Info`, `TE`, `Transfer-Encoding`, `Upgrade` and
//!   `HTTP2-Settings`. `Host` and `Content-Length` cannot be named away. `TE: trailers` is sent on, with the
//!   `Connection: te` that belongs to it.
//! - `Trailer` stays: RFC 9110 §6.6.2 does not count it among the fields of one connection, and hyper sends no trailers
//!   that it does not announce.
//! - `Host` is the upstream's, unless [`preserve_host`](ForwardLayer::preserve_host) says otherwise.
//! - Several `Cookie` fields of HTTP/2 become one (RFC 9113 §8.2.3).
//! - A body of unknown length goes in chunks, with a GET as well.
//! - Everything else passes as it is, `Expect` and the request's extensions too: a [`Route`](crate::Route) or a
//!   [`Partition`](crate::Partition) that a layer above has set reaches the agent.
//!
//! # Responses
//!
//! The same fields are removed, and the version is left to the server. Status, body, trailers and extensions pass. Interim
//! responses (1xx) do not: hyper's client has no place for them.
//!
//! # Upgrades
//!
//! A request with `Connection: upgrade` and `Upgrade` is sent on with these two. Where the upstream answers 101 with a
//! protocol that the request has offered, the layer connects the two streams in a task. The end of what one side sends is
//! passed on to the other; the task ends when both have ended, or either has failed. It has no timeout of its own: TCP
//! keep-alive finds an end that has vanished. An answer of 101 that does not fit becomes a 502 without a body. `h2c` is
//! never passed on: what comes after it could not be looked at by any layer. [`upgrades(false)`](ForwardLayer::upgrades)
//! passes none on.
//!
//! A `CONNECT` goes to the upstream as one for the upstream itself, never for a host of the caller's choice. If the answer
//! is a 2xx, the caller gets a 501: no tunnel is made.
//!
//! # Security
//!
//! - The base path of an upstream is no jail: dot segments (`/../`) and what is percent-encoded pass as they are, and the
//!   upstream may resolve them to a path beside the base path. An upstream that is not to be reached as a whole needs a
//!   check above this layer.
//! - `X-Forwarded-For` and its like pass as any other field unless [`forwarded_for`](ForwardLayer::forwarded_for),
//!   [`forwarded_host`](ForwardLayer::forwarded_host) or [`forwarded_proto`](ForwardLayer::forwarded_proto) is set. If one
//!   is, what the caller says in any of them is removed first: a stranger can write there what he likes. Behind a proxy of
//!   your own, [`trust_forwarded`](ForwardLayer::trust_forwarded) keeps it.
//! - Nothing here looks for loops.

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

//! Node's `http.Agent`, with what agentkeepalive adds, as tower layers for hyper clients.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod agent;
mod bond;
mod cause;
mod checkin;
mod checkout;
mod clock;
pub mod connect;
mod error;
mod exchange;
mod expiry;
mod http1;
mod info;
mod keep_alive;
mod key;
mod lifespan;
mod pool;
mod poolable;

pub use agent::{AgentHandle, Drained, Status};
pub use bond::{CloseHook, TransportGuard};
pub use cause::Cause;
pub use checkin::{Checkin, CheckinFuture, CheckinLayer, Lease};
pub use checkout::{Checkout, CheckoutFuture, CheckoutLayer};
pub use clock::{Clock, Moment};
pub use error::{BoxError, CheckoutError, Denied, Error, SendError, TimeoutKind};
pub use exchange::{Body, Exchange, ExchangeFuture, ExchangeLayer};
pub use expiry::{
    ExpiryFuture, IdleEviction, IdleEvictionLayer, MaxUses, MaxUsesLayer, Ttl, TtlLayer,
};
pub use http1::{Handshake, HandshakeFuture, HandshakeLayer, Http1Connection, Http1Future};
pub use info::ConnectionInfo;
pub use keep_alive::{KeepAlive, KeepAliveLayer};
pub use key::{Destination, Key, KeyRef, OneShot, Partition, Reuse, Target};
pub use lifespan::{Deadline, Lifespan};
pub use pool::{Limits, Pool, Scheduling};
pub use poolable::{Liveness, Poolable, Use};

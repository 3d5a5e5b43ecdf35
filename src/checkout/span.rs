//! The tracing span of one checkout.

use std::time::Duration;

use crate::agent::AgentState;
#[cfg(feature = "tracing")]
use crate::agent::{PROTOCOL, protocol_version};
use crate::connection::poolable::Poolable;
use crate::pool::PooledConn;
use crate::target::Target;

/// The span of one checkout, if a subscriber is interested.
#[derive(Clone)]
pub(super) struct CheckoutSpan {
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

impl CheckoutSpan {
    /// Begins a child of the current span: that of the exchange, when it is first polled.
    #[inline]
    pub(super) fn begin(target: &impl Target, agent: &AgentState) -> Self {
        #[cfg(feature = "tracing")]
        {
            use tracing::field::{Empty, display};

            use crate::target::key::Key;

            let span = tracing::debug_span!(
                target: crate::agent::TARGET,
                "checkout",
                agent = Empty,
                key = Empty,
                connection.id = Empty,
                network.protocol.name = Empty,
                network.protocol.version = Empty,
                reused = Empty,
                waited = Empty,
                dns = Empty,
                connect = Empty,
                tunnel = Empty,
                tls = Empty,
            );
            if !span.is_disabled() {
                span.record("key", display(Key::from(target.key())));
                if let Some(name) = agent.name() {
                    span.record("agent", &*name);
                }
            }
            Self { span }
        }
        #[cfg(not(feature = "tracing"))]
        {
            let _ = (target, agent);
            Self {}
        }
    }

    /// Runs `step` inside the span.
    #[inline]
    pub(super) fn within<R>(&self, step: impl FnOnce() -> R) -> R {
        #[cfg(feature = "tracing")]
        let _entered = self.span.enter();
        step()
    }

    /// Records that the caller has its connection, after this time in the queue.
    #[inline]
    pub(super) fn served<C: Poolable>(&self, pooled: &PooledConn<C>, waited: Duration) {
        pooled.waited(waited);
        #[cfg(feature = "tracing")]
        if !self.span.is_disabled() {
            let lifespan = pooled.connection_ref().lifespan();
            self.span.record("connection.id", lifespan.shared().id());
            let version = protocol_version(lifespan.shared().version());
            self.span.record("network.protocol.name", PROTOCOL);
            self.span.record("network.protocol.version", version);
            self.span.record("reused", lifespan.is_reused());
            self.span.record("waited", tracing::field::debug(waited));
            if let Some(made) = lifespan
                .shared()
                .transport()
                .filter(|_| !lifespan.is_reused())
            {
                let times = made.times;
                for (part, time) in [
                    ("dns", times.dns),
                    ("connect", times.connect),
                    ("tunnel", times.tunnel),
                    ("tls", times.tls),
                ] {
                    if let Some(time) = time.known() {
                        self.span.record(part, tracing::field::debug(time));
                    }
                }
            }
        }
    }
}

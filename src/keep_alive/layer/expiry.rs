//! How long connections are kept.

use std::time::Duration;

use crate::clock::Clock;
use crate::expiry::ActiveTimeoutLayer;
use crate::expiry::MaxUsesLayer;
use crate::expiry::TtlLayer;
use crate::keep_alive::KeepAliveLayer;
use crate::pool::PoolConfig;

/// # How long connections are kept
impl<B> KeepAliveLayer<B> {
    /// Whether connections are kept for further requests (Node: `keepAlive`). With `false`, every request has a
    /// connection of its own, and `Connection: close` is added to it. Default: true.
    #[doc(alias = "keepAlive")]
    pub fn keep_alive(mut self, keep: bool) -> Self {
        self.settings.exchange = self.settings.exchange.keep_alive(keep);
        self.settings.config = self.settings.config.keep_alive(keep);
        self
    }

    /// How long a connection may be idle (agentkeepalive: `freeSocketTimeout`); see [`IdleEvictionLayer`](crate::layers::IdleEvictionLayer). Default: 4 s, below the
    /// 5 s after which Node servers close.
    #[doc(alias = "freeSocketTimeout")]
    pub fn idle_timeout(mut self, max: Duration) -> Self {
        self.settings.idle_timeout = max;
        self
    }

    /// How long a server may be silent during an exchange (agentkeepalive: `timeout`); see [`ActiveTimeoutLayer`]. Default:
    /// twice the idle timeout, but at least 8 s.
    ///
    /// # Panics
    ///
    /// If `max` is zero.
    #[doc(alias = "timeout")]
    pub fn active_timeout(mut self, max: Duration) -> Self {
        let _ = ActiveTimeoutLayer::new(max);
        self.settings.active_timeout = Some(max);
        self
    }

    /// How long a connect may take, including DNS and TLS. Default: the active timeout.
    ///
    /// # Panics
    ///
    /// If `max` is zero.
    pub fn connect_timeout(mut self, max: Duration) -> Self {
        let _ = PoolConfig::new().connect_timeout(max);
        self.settings.connect_timeout = Some(max);
        self
    }

    /// The maximum age of a connection (agentkeepalive: `socketActiveTTL`); see [`TtlLayer`]. Default: no limit.
    #[doc(alias = "socketActiveTTL")]
    pub fn ttl(mut self, max: Duration) -> Self {
        self.settings.ttl = max;
        self
    }

    /// Shortens the TTL of each connection by a random part of up to this fraction, between 0 and 1; see
    /// [`TtlLayer::jitter`]. Default: 0.
    ///
    /// # Panics
    ///
    /// If `part` is not between 0 and 1.
    pub fn ttl_jitter(mut self, part: f64) -> Self {
        let _ = TtlLayer::new(self.settings.ttl).jitter(part);
        self.settings.ttl_jitter = part;
        self
    }

    /// The maximum number of exchanges on one connection; see [`MaxUsesLayer`]. Default: no limit.
    ///
    /// # Panics
    ///
    /// If `max` is 0.
    pub fn max_uses(mut self, max: u64) -> Self {
        self.settings.uses = MaxUsesLayer::new(max);
        self
    }

    /// How much is subtracted from a server's `Keep-Alive: timeout=N` (Node: `agentKeepAliveTimeoutBuffer`); see
    /// [`ExchangeLayer::server_hint_margin`](crate::layers::ExchangeLayer::server_hint_margin). Default: 1 s.
    #[doc(alias = "agentKeepAliveTimeoutBuffer")]
    pub fn server_hint_margin(mut self, margin: Duration) -> Self {
        self.settings.exchange = self.settings.exchange.server_hint_margin(margin);
        self
    }

    /// The clock that the pool reads, for your own tests.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings.config = self.settings.config.clock(clock);
        self
    }
}

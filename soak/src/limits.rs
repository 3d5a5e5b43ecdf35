//! The limits of one round's agent.

use std::time::Duration;

use fastrand::Rng;
use tower_keep_alive::{ConnectionInfo, KeepAliveLayer, Scheduling, Spread};

use crate::names::Names;
use crate::upload::Upload;

/// The agent reads its clock when it looks at the limits and, a look at the socket later, when it gives the connection out;
/// the age is read last of all, here. A machine on which more want to run than can may stop a thread between any two.
const SLACK: Duration = Duration::from_millis(100);

/// Drawn at random, and checked by who does not know how the agent keeps to them.
#[derive(Clone, Debug, Default)]
pub(crate) struct PoolConfig {
    pub(crate) per_host: Option<usize>,
    pub(crate) total: Option<usize>,
    idle_per_host: Option<usize>,
    idle: Option<usize>,
    idle_time: Option<Duration>,
    ttl: Option<Duration>,
    uses: Option<u64>,
    pending: Option<usize>,
    checkout: Option<Duration>,
    drains: bool,
    fifo: bool,
    /// Requests may also take connections out of the limits: detached, on their own, upgraded.
    pub(crate) is_loose: bool,
    /// Almost every request is plain, for one host, and read to its end: connections live on, each from one caller in line
    /// to the next, until a limit of theirs ends them.
    pub(crate) is_calm: bool,
    /// Names have several addresses, which change, and over which the load is spread.
    pub(crate) has_names: bool,
    spread: Spread,
    /// So many connections of each host are made ahead.
    pub(crate) min_idle: Option<usize>,
    /// Addresses that fail are taken out for a while.
    ejects: bool,
}

impl PoolConfig {
    pub(crate) fn any(rng: &mut Rng) -> Self {
        let mut one_in = |n: u8| rng.u8(..n) == 0;
        let is = [
            one_in(3),
            one_in(3),
            one_in(4),
            one_in(4),
            one_in(3),
            one_in(2),
            one_in(3),
            one_in(6),
            one_in(6),
            one_in(3),
            one_in(2),
            one_in(2),
            one_in(4),
            one_in(3),
            one_in(3),
            one_in(2),
        ];
        let millis = |rng: &mut Rng, most| Duration::from_millis(rng.u64(1..most));
        Self {
            per_host: (!is[0]).then(|| rng.usize(1..=8)),
            total: is[1].then(|| rng.usize(2..=12)),
            idle_per_host: is[2].then(|| rng.usize(..4)),
            idle: is[3].then(|| rng.usize(1..6)),
            idle_time: is[4].then(|| millis(rng, 20)),
            ttl: is[5].then(|| millis(rng, 200)),
            uses: is[6].then(|| rng.u64(1..20)),
            // Nobody is refused in a calm round, or where callers wait while a spare connection is made.
            pending: (is[7] && !is[12] && !is[14]).then(|| rng.usize(1..10)),
            checkout: (is[8] && !is[12] && !is[14]).then(|| millis(rng, 10)),
            drains: is[9],
            fifo: is[10],
            is_loose: is[11],
            is_calm: is[12],
            has_names: is[13],
            spread: [Spread::AsResolved, Spread::InTurn, Spread::FewestOpenFirst][rng.usize(..3)],
            min_idle: is[14].then(|| rng.usize(1..4)),
            ejects: is[15],
        }
    }

    pub(crate) fn layer(&self) -> KeepAliveLayer<Upload> {
        let mut layer = KeepAliveLayer::new()
            .active_timeout(Duration::from_secs(4))
            .spread(self.spread);
        if self.has_names {
            layer = layer.follow_dns(Names::follow());
        }
        if let Some(count) = self.min_idle {
            layer = layer.min_idle_per_host(count);
        }
        if self.ejects {
            layer = layer.eject(Names::ejection());
        }
        if let Some(max) = self.per_host {
            layer = layer.max_connections_per_host(max);
        }
        if let Some(max) = self.total {
            layer = layer.max_connections(max);
        }
        if let Some(max) = self.idle_per_host {
            layer = layer.max_idle_per_host(max);
        }
        if let Some(max) = self.idle {
            layer = layer.max_idle(max);
        }
        if let Some(max) = self.idle_time {
            layer = layer
                .idle_timeout(max)
                .active_timeout(Duration::from_secs(4));
        }
        if let Some(max) = self.ttl {
            layer = layer.ttl(max);
        }
        if let Some(max) = self.uses {
            layer = layer.max_uses(max);
        }
        if let Some(max) = self.pending {
            layer = layer.max_pending_per_host(max);
        }
        if let Some(max) = self.checkout {
            layer = layer.checkout_timeout(max);
        }
        if self.drains {
            layer = layer.drain_unread(1 << 17, Duration::from_millis(50));
        }
        if self.fifo {
            layer = layer.scheduling(Scheduling::Fifo);
        }
        layer
    }

    /// How a connection is beyond its limits, `since` its request began.
    pub(crate) fn excess(&self, info: &ConnectionInfo, since: Duration) -> Option<String> {
        let (age, idle, uses) = (info.age(), info.idle_for(), info.uses());
        let is_old = info.is_reused() && self.ttl.is_some_and(|ttl| age > ttl + since + SLACK);
        let is_stale = self.idle_time.is_some_and(|max| idle > max + SLACK);
        let is_used = self.uses.is_some_and(|max| uses > max);
        (is_old || is_stale || is_used)
            .then(|| format!("{age:?} old, {idle:?} idle, {uses} uses, with {self:?}"))
    }

    /// So many connections of one host have to be possible at once.
    pub(crate) fn room(&self) -> usize {
        let per_host = self.per_host.unwrap_or(16);
        per_host.min(self.total.unwrap_or(16))
    }
}

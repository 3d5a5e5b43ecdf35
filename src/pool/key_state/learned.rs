//! Learns after how long the server closes idle connections, and applies that limit.

use std::time::Duration;

use super::{KeyState, StepCx};
use crate::clock::Moment;
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;
use crate::pool::learned::LearnedIdle;
use crate::pool::list::List;
use crate::pool::pooled_conn::PooledConn;

impl<C: Poolable> KeyState<C> {
    /// Restores what was learned about this key before.
    pub(in crate::pool) fn set_learned(&mut self, learned: Option<Box<LearnedIdle>>) {
        self.learned = learned;
        // Applied from the next put on.
        if self.learned.is_some() {
            self.plain_idle_limit = 0;
        }
    }

    /// Taken when nothing of this key is left.
    pub(in crate::pool) fn take_learned(&mut self, now: Moment) -> Option<Box<LearnedIdle>> {
        self.learned.take().filter(|it| !it.is_old(now.mono))
    }

    /// The limit, if it is known, and from how many closes it was learned.
    pub(in crate::pool) fn learned(&mut self, now: Moment) -> Option<(Duration, u64)> {
        let learned = self.learned.as_mut()?;
        Some((learned.limit(now.mono)?, learned.closes()))
    }

    /// The server has closed an idle connection for this reason. Returns the limit if one was learned from that.
    pub(super) fn learn_from_close(
        &mut self,
        kept: &PooledConn<C>,
        reason: CloseReason,
        cx: &mut StepCx<'_, C>,
    ) -> Option<Duration> {
        let is_the_servers = matches!(reason, CloseReason::Peer | CloseReason::Error);
        let lifespan = kept.connection_ref().lifespan();
        // If the server announces its timeout, nothing has to be learned.
        if !cx.config.learn_idle_limit || !is_the_servers || lifespan.has_idle_hint() {
            return None;
        }
        let idle = cx.now.since(kept.idle_since?);
        let learned = self.learned.get_or_insert_default();
        let limit = learned.closed(idle, cx.now.mono)?;
        self.plain_idle_limit = 0;
        let mut earliest: Option<Moment> = None;
        let mut next = self.idle.head();
        while let Some(index) = next {
            next = List::next(&mut self.open, index);
            let Some(pooled) = &mut self.open[index].idle else {
                continue;
            };
            if let Some(at) = shortened(pooled, limit)
                && earliest.is_none_or(|earliest| at.mono < earliest.mono)
            {
                earliest = Some(at);
            }
        }
        let sweep_at = earliest.and_then(|at| self.arm_sweeper(at));
        cx.deferred.sweep_at = sweep_at.or(cx.deferred.sweep_at);
        Some(limit)
    }

    /// The connection is about to be idle: applies the learned limit.
    #[inline]
    pub(super) fn apply_learned(&mut self, pooled: &mut PooledConn<C>, cx: &StepCx<'_, C>) {
        if self.learned.is_some() {
            self.shorten(pooled, cx);
        }
    }

    #[cold]
    fn shorten(&mut self, pooled: &mut PooledConn<C>, cx: &StepCx<'_, C>) {
        if pooled.connection_ref().lifespan().has_idle_hint() {
            self.learned = None;
        }
        let limit = self.learned.as_mut().and_then(|it| it.limit(cx.now.mono));
        match limit {
            Some(limit) => {
                shortened(pooled, limit);
            }
            // The limit is forgotten.
            None => self.plain_idle_limit = cx.config.max_idle_per_host,
        }
    }
}

/// Shortens the time of an idle connection to `limit`; returns its deadline if that is earlier now.
fn shortened<C: Poolable>(pooled: &mut PooledConn<C>, limit: Duration) -> Option<Moment> {
    let at = pooled.idle_since?.checked_add(limit)?;
    if pooled.deadline.is_some_and(|known| known.mono <= at.mono) {
        return None;
    }
    pooled.deadline = Some(at);
    Some(at)
}

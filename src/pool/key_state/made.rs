//! Connections that are being made: their entries, and how they become usable.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::late::Watch;
use super::sharing::{NewHook, Sharing};
use super::{Counting, KeyDecision, KeyState, Open, Stage, StepCx};
use crate::connection::poolable::Poolable;
use crate::connection::shared::ConnShared;
use crate::pool::list::{Links, List};
use crate::pool::pooled_conn::PooledConn;
use crate::pool::spares::replaced_at;
use crate::pool::wait_queue::{CheckoutRequest, QueueState, WaiterId};
use crate::target::Reuse;

/// The time until the next try, if a limit prevents a spare connection.
const SECOND: Duration = Duration::from_secs(1);

impl<C: Poolable> KeyState<C> {
    /// Restores how many uses a connection carries, as it was learned before.
    pub(in crate::pool) fn expect(&mut self, uses: Option<usize>) {
        match uses {
            None => {}
            // It may not be shared.
            Some(1) => self.capacity.is_exclusive(),
            Some(uses) => self.capacity.learn(uses),
        }
    }

    /// How many uses a connection carries, if that was learned.
    pub(in crate::pool) fn expected(&self) -> Option<usize> {
        match C::SHARED {
            true => self.capacity.expected(),
            false => None,
        }
    }

    /// The connect has made this connection.
    pub(in crate::pool) fn connected(&mut self, index: usize, shared: &Arc<ConnShared>) {
        if let Some(places) = &mut self.places {
            places.opened(index, shared.remote_addr());
        }
        self.counts.connected(shared);
        let open = &mut self.open[index];
        open.stage = if C::SHARED && open.counting != Counting::OneShot {
            self.capacity.connected(index);
            Stage::Made(shared.clone())
        } else {
            Stage::Connected(shared.clone())
        };
    }

    /// Callers need not wait for the result of the connect under way, unless more is known about this key.
    #[cold]
    pub(in crate::pool) fn go_side_by_side(&mut self, cx: &mut StepCx<'_, C>) {
        if C::SHARED {
            self.capacity.go_side_by_side();
            self.grant_permits(cx);
        }
    }

    /// Places for connections made in advance: as many as are missing to `count` idle ones.
    pub(in crate::pool) fn prewarm(&mut self, count: usize, cx: &mut StepCx<'_, C>) -> Vec<usize> {
        let config = cx.config;
        let count = if config.keep_alive {
            count.min(config.max_idle_per_host)
        } else {
            0
        };
        let mut places = Vec::new();
        while self.idle.len() + places.len() < count
            && self.counted < config.max_connections_per_host
            && self.queue.blocked() == 0
            && cx.reserve(false)
        {
            places.push(self.insert_open(false));
        }
        places
    }

    /// Places for as many connections as the spare ones lack that last; and until when there are enough, if none lack.
    pub(in crate::pool) fn spare(
        &mut self,
        cx: &mut StepCx<'_, C>,
    ) -> (Vec<usize>, Option<Instant>) {
        let config = cx.config;
        let mut lasting = 0;
        let mut until: Option<Instant> = None;
        let mut next = self.idle.head();
        while let Some(index) = next {
            next = List::next(&mut self.open, index);
            let Some(pooled) = &self.open[index].idle else {
                continue;
            };
            let times = pooled.idle_since.zip(pooled.deadline);
            let replaced = times.map(|(since, ends)| replaced_at(since.mono, ends.mono));
            if replaced.is_none_or(|at| at > cx.now.mono) {
                lasting += 1;
                until = until.into_iter().chain(replaced).min();
            }
        }
        let mut places = Vec::new();
        while lasting + places.len() < config.min_idle_per_host
            && self.idle.len() + places.len() < config.max_idle_per_host
            && self.counted < config.max_connections_per_host
            && self.queue.blocked() == 0
            && cx.reserve(false)
        {
            places.push(self.insert_open(false));
        }
        if lasting + places.len() < config.min_idle_per_host {
            // A limit prevents the others for now; the next try is in a second.
            until = until
                .into_iter()
                .chain(cx.now.mono.checked_add(SECOND))
                .min();
        }
        (places, until)
    }

    /// A place for a connection that spreads the load, if an address needs one.
    pub(in crate::pool) fn place_to_spread(&mut self, cx: &mut StepCx<'_, C>) -> Option<usize> {
        if !self.is_narrow(cx) || !cx.reserve(false) {
            return None;
        }
        let index = self.insert_open(false);
        self.capacity.set_aside(index);
        Some(index)
    }

    pub(super) fn make(
        &mut self,
        ticket: u64,
        request: CheckoutRequest,
        one_shot: bool,
        cx: &StepCx<'_, C>,
    ) -> KeyDecision<C> {
        let index = self.insert_open(one_shot);
        // A caller that wants a connection of its own does not take that of another caller.
        let state = if request.reuse == Reuse::Any {
            QueueState::Connecting
        } else {
            QueueState::Detached
        };
        KeyDecision::Make {
            index,
            waiter: self.queue.join(ticket, request, cx.now.mono, state),
        }
    }

    pub(super) fn insert_open(&mut self, one_shot: bool) -> usize {
        self.counted += usize::from(!one_shot);
        self.counts.connects();
        if C::SHARED && !one_shot {
            self.capacity.connect_begins();
        }
        self.open.insert(Open {
            links: Links::default(),
            stage: Stage::Connecting(None),
            idle: None,
            counting: match one_shot {
                true => Counting::OneShot,
                false => Counting::Counted,
            },
            frees_for_key: false,
            frees_for_total: false,
            watch: Watch::Fine,
            watched: 0,
        })
    }

    /// Several uses may share this connection, and `first` is its first use. `new_hook` makes the close hook
    /// of each further use. `Err`: the connection is not to be shared, or is gone already.
    pub(in crate::pool) fn share(
        &mut self,
        index: usize,
        whole: Box<PooledConn<C>>,
        first: &PooledConn<C>,
        new_hook: NewHook,
        waiter_id: Option<WaiterId>,
        cx: &mut StepCx<'_, C>,
    ) -> Result<bool, Box<PooledConn<C>>> {
        let shared = whole.connection_ref().lifespan().shared().clone();
        let open = self.open.get_mut(index);
        let Some(open) =
            open.filter(|it| matches!(&it.stage, Stage::Made(made) if Arc::ptr_eq(made, &shared)))
        else {
            return Err(whole);
        };
        let mut sharing = Box::new(Sharing::new(shared, whole, new_hook));
        sharing.add(first);
        sharing.begin(first);
        open.stage = Stage::Shared(sharing);
        self.capacity.shares();
        // The connection may have reported its capacity before this.
        self.read_capacity(index, cx);
        Ok(waiter_id.is_some_and(|it| self.queue.leave_with_own(it)))
    }

    /// The connection is for one use at a time.
    pub(in crate::pool) fn set_exclusive(
        &mut self,
        index: usize,
        shared: &Arc<ConnShared>,
        cx: &mut StepCx<'_, C>,
    ) {
        let open = self.open.get_mut(index);
        if let Some(open) = open
            && let Stage::Made(made) = &open.stage
            && Arc::ptr_eq(made, shared)
        {
            open.stage = Stage::Connected(shared.clone());
            self.capacity.becomes_known(index);
            self.capacity.is_exclusive();
            self.grant_permits(cx);
        }
    }

    /// Whether a connect has to begin, if `more` callers join the queue.
    #[inline]
    pub(super) fn is_short(&self, more: usize) -> bool {
        !C::SHARED || self.capacity.is_short_of(self.queue.takers() + more)
    }
}

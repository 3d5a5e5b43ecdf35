//! A key's connections by address.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::runtime::Id;

use super::{KeyState, Open, Stage, StepCx};
use crate::agent::AddressStatus;
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;
use crate::connection::shared::ConnShared;
use crate::pool::pooled_conn::Rejected;

impl<C: Poolable> KeyState<C> {
    /// Counts the open connections whose address is known.
    pub(in crate::pool) fn by_address(&self) -> BTreeMap<SocketAddr, AddressStatus> {
        let mut addresses = BTreeMap::<_, AddressStatus>::new();
        for (_, open) in &self.open {
            let Some(shared) = open.shared() else {
                continue;
            };
            if let Some(address) = shared.remote_addr() {
                let is_idle = open.idle.is_some();
                addresses.entry(address).or_default().add(&AddressStatus {
                    idle: usize::from(is_idle),
                    active: usize::from(!is_idle),
                    requests: open.uses_now(),
                    served: shared.activity().uses(),
                    left_out: None,
                });
            }
        }
        addresses
    }
}

impl<C: Poolable> KeyState<C> {
    /// Takes `count` more connections to this address out of use, idle ones first. Returns those in use that are not shared:
    /// the caller excludes them from further use.
    pub(in crate::pool) fn leave_address(
        &mut self,
        address: SocketAddr,
        count: usize,
        cx: &mut StepCx<'_, C>,
    ) -> Vec<Arc<ConnShared>> {
        let leads_there = |(_, open): &(usize, &Open<C>)| {
            open.shared().and_then(|it| it.remote_addr()) == Some(address)
        };
        let is_leaving = |open: &Open<C>| {
            let in_use = open.idle.is_none();
            let drains = matches!(&open.stage, Stage::Shared(it) if it.drains.is_some());
            in_use && (drains || open.shared().is_some_and(|it| it.is_ending()))
        };
        let there = self.open.iter().filter(leads_there);
        let there = there.filter(|(_, open)| !is_leaving(open));
        let mut there: Vec<_> = there
            .map(|(index, open)| (open.idle.is_none(), index))
            .collect();
        there.sort_unstable();
        let mut in_use = Vec::new();
        for (is_in_use, index) in there.into_iter().take(count) {
            if !is_in_use {
                if let Some(pooled) = self.remove_whole(index, cx) {
                    cx.deferred.close(pooled, CloseReason::Moved);
                }
            } else if matches!(self.open[index].stage, Stage::Shared(_)) {
                self.drain(index, CloseReason::Moved, cx);
            } else if let Some(shared) = self.open[index].shared() {
                if let Some(addresses) = cx.trials {
                    addresses.drains(shared, CloseReason::Moved, cx.now.mono);
                }
                in_use.push(shared.clone());
            }
        }
        self.grant_permits(cx);
        in_use
    }
}

impl<C: Poolable> KeyState<C> {
    /// Whether this caller is to connect although there may be connections that it could use, so that an ejected address is
    /// tried again; and whether one of these was closed for that. At a limit, one has to be.
    pub(super) fn tries(&mut self, runtime: Option<Id>, cx: &mut StepCx<'_, C>) -> (bool, bool) {
        if !cx.claims_trial() {
            return (false, false);
        }
        if !self.is_full(cx) {
            return (true, false);
        }
        let made_way = self.serves_without_one(cx) && self.make_way(runtime, cx);
        (made_way, made_way)
    }

    /// Closes a connection that this caller could use, if there is one.
    fn make_way(&mut self, runtime: Option<Id>, cx: &mut StepCx<'_, C>) -> bool {
        let roomy = match C::SHARED && self.places.is_none() {
            true => self.take_roomy(runtime, cx),
            false => None,
        };
        let taken = roomy.map(|pooled| (pooled, None));
        let Some((pooled, why)) = taken.or_else(|| self.take_one(runtime, cx)) else {
            return false;
        };
        let reason = why.unwrap_or(CloseReason::Moved);
        self.discard(Rejected::new(pooled, reason), cx);
        true
    }

    fn is_full(&self, cx: &StepCx<'_, C>) -> bool {
        self.counted >= cx.config.max_connections_per_host
            || cx.total.as_ref().is_some_and(|total| total.is_full())
    }

    /// The reason to close a connection that could serve a blocked caller, at a limit: that caller is to connect to an ejected
    /// address.
    pub(super) fn trial_closes(&self, cx: &StepCx<'_, C>) -> Option<CloseReason> {
        let claims = self.queue.blocked() > 0 && self.is_full(cx) && cx.claims_trial();
        (claims && self.serves_without_one(cx)).then_some(CloseReason::Moved)
    }

    /// Whether a connection may be closed so that an ejected address is tried again. The last one to an address that serves may
    /// not: the trial waits until there are others, or none.
    fn serves_without_one(&self, cx: &StepCx<'_, C>) -> bool {
        let serves = |(_, open): &(usize, &Open<C>)| {
            let drains = matches!(&open.stage, Stage::Shared(it) if it.drains.is_some());
            let shared = open
                .shared()
                .filter(|it| it.excluded().is_none() && !drains);
            shared.is_some_and(|it| !cx.leads_to_ejected(it))
        };
        self.open.iter().filter(serves).nth(1).is_some()
    }

    /// This shared connection tries an ejected address again.
    pub(in crate::pool) fn begin_trial(&mut self, index: usize) {
        if let Some(sharing) = self.open.get_mut(index).and_then(Open::sharing) {
            sharing.is_trial = true;
            self.update_roomy(index);
        }
    }

    /// The address serves again: shared connections that have tried it take as many uses as any other. Returned for their room
    /// to be given out.
    pub(in crate::pool) fn end_trials(
        &mut self,
        address: SocketAddr,
    ) -> Vec<(usize, Arc<ConnShared>)> {
        let mut ended = Vec::new();
        for (index, open) in &mut self.open {
            if let Stage::Shared(sharing) = &mut open.stage
                && sharing.is_trial
                && sharing.shared().remote_addr() == Some(address)
            {
                sharing.is_trial = false;
                ended.push((index, sharing.shared().clone()));
            }
        }
        ended
    }
}

impl<C> StepCx<'_, C> {
    /// Whether this caller is to connect although there are connections, so that an ejected address is tried again.
    pub(super) fn claims_trial(&self) -> bool {
        self.trials
            .is_some_and(|addresses| addresses.claims_trial(self.now.mono))
    }

    fn leads_to_ejected(&self, shared: &ConnShared) -> bool {
        self.trials
            .zip(shared.remote_addr())
            .is_some_and(|(addresses, address)| addresses.is_ejected(address))
    }
}

impl<C: Poolable> Open<C> {
    /// How many callers use it, or are about to.
    pub(super) fn uses_now(&self) -> usize {
        match &self.stage {
            Stage::Shared(sharing) => sharing.uses(),
            _ => usize::from(self.idle.is_none()),
        }
    }
}

//! A key's connections by address.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{KeyState, Open, Stage, StepCx};
use crate::agent::AddressStatus;
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;
use crate::connection::shared::ConnShared;

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
                });
            }
        }
        addresses
    }
}

impl<C: Poolable> KeyState<C> {
    /// Takes `count` connections to this address out of use, idle ones first. Returns those in use that are not shared: the
    /// caller poisons them without the lock.
    pub(in crate::pool) fn leave_address(
        &mut self,
        address: SocketAddr,
        count: usize,
        cx: &mut StepCx<'_, C>,
    ) -> Vec<Arc<ConnShared>> {
        let leads_there = |(_, open): &(usize, &Open<C>)| {
            open.shared().and_then(|it| it.remote_addr()) == Some(address)
        };
        let there = self.open.iter().filter(leads_there);
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
            } else {
                in_use.extend(self.open[index].shared().cloned());
            }
        }
        self.grant_permits(cx);
        in_use
    }
}

impl<C: Poolable> Open<C> {
    /// How many callers use it, or are about to.
    fn uses_now(&self) -> usize {
        match &self.stage {
            Stage::Shared(sharing) => sharing.uses(),
            _ => usize::from(self.idle.is_none()),
        }
    }
}

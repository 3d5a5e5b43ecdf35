//! A key's connections by address, and the addresses that are left or ejected.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::KeyPool;
use crate::agent::{AddressStatus, LookupStatus};
use crate::connection::poolable::Poolable;
use crate::connection::shared::ConnShared;
#[cfg(test)]
use crate::pool::addresses::AddressBook;
use crate::pool::addresses::{Admission, Change, Choice};

impl<C: Poolable> KeyPool<C> {
    /// The choice of an address for one connect.
    pub(crate) fn choice(&self) -> Option<Arc<Choice>> {
        let addresses = self.addresses.clone()?;
        Some(Arc::new(Choice::new(addresses)))
    }

    /// The same for a connect that spreads the load: among the addresses that have no connection.
    pub(crate) fn choice_to_spread(&self) -> Option<Arc<Choice>> {
        let addresses = self.addresses.clone()?;
        Some(Arc::new(Choice::to_spread(addresses)))
    }

    /// Counts a new connection at its address, and returns what it may be used for.
    pub(super) fn admit(&self, shared: &ConnShared) -> Admission {
        let Some((addresses, address)) = self.addresses.as_ref().zip(shared.remote_addr()) else {
            return Admission::Any;
        };
        let admission = addresses.opened(address, shared.id());
        if let Some(observer) = addresses.observer(address, admission) {
            shared.set_outcome_observer(observer);
        }
        admission
    }

    /// The connection is gone.
    pub(super) fn dismiss(&self, shared: &ConnShared) {
        if let Some((addresses, address)) = self.addresses.as_ref().zip(shared.remote_addr()) {
            addresses.closed(address, shared);
        }
    }

    /// Whether this connection tries an ejected address again.
    pub(super) fn is_on_trial(&self, shared: &ConnShared) -> bool {
        let addresses = self.addresses.as_ref().zip(shared.remote_addr());
        addresses.is_some_and(|(addresses, address)| addresses.is_on_trial(address, shared.id()))
    }

    /// While an address is ejected, each caller looks whether it is to be tried again.
    pub(in crate::pool) fn settle_shortcut(&self) {
        let set = |has_shortcut| self.has_shortcut.store(has_shortcut, Ordering::SeqCst);
        // Before the look, so that an ejection that comes meanwhile is not lost.
        set(self.config.has_shortcut());
        let addresses = self.addresses.as_ref();
        if addresses.is_some_and(|addresses| addresses.is_any_ejected()) {
            set(false);
        }
        self.count_left_out();
    }

    /// A connect has ended, an address was ejected or readmitted, or the name may have other addresses.
    pub(in crate::pool) fn count_left_out(&self) {
        if let Some(addresses) = &self.addresses {
            self.gauges.left_out(|| addresses.left_out().len());
        }
    }

    /// An address was ejected or readmitted.
    pub(in crate::pool) fn address_changed(self: &Arc<Self>, address: SocketAddr, change: Change) {
        self.settle_shortcut();
        match change {
            Change::Ejected { .. } => self.leave_address(address, usize::MAX),
            Change::Readmitted => {
                let ended = self.lock().end_trials(address);
                for (index, shared) in ended {
                    self.changed(index, &shared);
                }
            }
        }
        self.emit(None, || change.event(address));
    }

    /// So many connections to this address, or all that there are, take no further requests.
    pub(in crate::pool) fn leave_address(self: &Arc<Self>, address: SocketAddr, count: usize) {
        let in_use = self.with(|state, cx| state.leave_address(address, count, cx));
        for shared in in_use {
            shared.leave_address();
        }
    }

    pub(in crate::pool) fn by_address(&self) -> BTreeMap<SocketAddr, AddressStatus> {
        let mut all = self.lock().by_address();
        let left_out = self.addresses.as_ref().map(|it| it.left_out());
        for (address, left_out) in left_out.into_iter().flatten() {
            all.entry(address).or_default().left_out = Some(left_out);
        }
        all
    }

    /// How the lookups of its name have ended, if it is followed.
    pub(in crate::pool) fn lookup_status(&self) -> Option<LookupStatus> {
        self.addresses.as_ref()?.lookup_status()
    }

    #[cfg(test)]
    pub(in crate::pool) fn address_book(&self) -> Option<Arc<AddressBook>> {
        self.addresses.clone()
    }
}

//! A key's connections by address.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::KeyPool;
use crate::agent::{AddressStatus, LookupStatus};
use crate::connection::poolable::Poolable;
#[cfg(test)]
use crate::pool::addresses::AddressBook;
use crate::pool::addresses::Choice;

impl<C: Poolable> KeyPool<C> {
    /// The choice of an address for one connect.
    pub(crate) fn choice(&self) -> Option<Arc<Choice>> {
        let addresses = self.addresses.clone()?;
        Some(Arc::new(Choice::new(addresses)))
    }

    /// So many connections to this address, or all that there are, take no further requests.
    pub(in crate::pool) fn leave_address(self: &Arc<Self>, address: SocketAddr, count: usize) {
        let in_use = self.with(|state, cx| state.leave_address(address, count, cx));
        for shared in in_use {
            shared.poison();
        }
    }

    pub(in crate::pool) fn by_address(&self) -> BTreeMap<SocketAddr, AddressStatus> {
        self.lock().by_address()
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

//! A key's connections by address.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{KeyState, Open, Stage};
use crate::agent::AddressStatus;
use crate::connection::poolable::Poolable;

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

impl<C: Poolable> Open<C> {
    /// How many callers use it, or are about to.
    fn uses_now(&self) -> usize {
        match &self.stage {
            Stage::Shared(sharing) => sharing.uses(),
            _ => usize::from(self.idle.is_none()),
        }
    }
}

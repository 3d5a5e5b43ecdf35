//! Permits for connections that nobody has asked for yet.

use std::sync::Arc;

use tokio::time::Instant;

use super::KeyPool;
use crate::agent::Mode;
use crate::connection::poolable::Poolable;
use crate::error::Denied;
use crate::pool::permit::ConnPermit;
use crate::pool::spares::{SparePlaces, Spares};

/// Permits to connect for spare connections.
pub(crate) enum SparePermits<C: Poolable> {
    /// For connections that are to be idle; none if there are enough.
    Idle(Vec<ConnPermit<C>>),
    /// For one that spreads the load.
    ToSpread(ConnPermit<C>),
}

impl<C: Poolable> KeyPool<C> {
    /// Permits to connect in advance. `Err`: this key pool was retired; look it up again.
    pub(in crate::pool) fn prewarm(
        self: Arc<Self>,
        count: usize,
    ) -> Result<Result<Vec<ConnPermit<C>>, Denied>, Arc<Self>> {
        let permits = self.with(|state, cx| {
            if state.retired {
                return None;
            }
            let open = cx.mode == Mode::Open;
            Some(open.then(|| state.prewarm(count, cx)))
        });
        let Some(permits) = permits else {
            return Err(self);
        };
        let permits = permits.ok_or(Denied::ShutDown);
        let permit = |index| ConnPermit::new(self.clone(), index);
        Ok(permits.map(|indices| indices.into_iter().map(permit).collect()))
    }

    /// Permits to connect for spare connections, and until when there are enough, if none lack.
    pub(in crate::pool) fn spare(
        self: &Arc<Self>,
    ) -> Result<Result<(SparePermits<C>, Option<Instant>), Denied>, Arc<Self>> {
        let spare = self.with(|state, cx| {
            if state.retired {
                return None;
            }
            let open = cx.mode == Mode::Open && !self.pool.is_orphaned();
            Some(open.then(|| state.spare(cx)))
        });
        let Some(spare) = spare else {
            return Err(self.clone());
        };
        Ok(spare.ok_or(Denied::ShutDown).map(|(places, until)| {
            let permit = |index| ConnPermit::new(self.clone(), index);
            let permits = match places {
                SparePlaces::Idle(all) => SparePermits::Idle(all.into_iter().map(permit).collect()),
                SparePlaces::ToSpread(index) => SparePermits::ToSpread(permit(index)),
            };
            (permits, until)
        }))
    }

    pub(crate) fn spares(&self) -> Option<Arc<Spares>> {
        self.spares.clone()
    }
}

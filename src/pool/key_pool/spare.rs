//! Permits for connections that nobody has asked for yet.

use std::sync::Arc;

use tokio::time::Instant;

use super::KeyPool;
use crate::agent::Mode;
use crate::connection::poolable::Poolable;
use crate::error::Denied;
use crate::pool::key_state::{KeyState, StepCx};
use crate::pool::permit::ConnPermit;
use crate::pool::spares::Spares;

/// The outer `Err`: this key pool was retired; look it up again.
type InAdvance<T, C> = Result<Result<T, Denied>, Arc<KeyPool<C>>>;

/// Permits for the spare connections that lack, and until when there are enough, if none lack.
pub(crate) type Spare<C> = (Vec<ConnPermit<C>>, Option<Instant>);

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
    pub(in crate::pool) fn spare(self: &Arc<Self>) -> InAdvance<Spare<C>, C> {
        let spare = self.in_advance(KeyState::spare)?;
        Ok(spare.map(|(places, until)| {
            let permits = places.into_iter().map(|it| self.permit(it));
            (permits.collect(), until)
        }))
    }

    /// The permit for a connect that spreads the load, if an address needs one.
    pub(in crate::pool) fn permit_to_spread(
        self: &Arc<Self>,
    ) -> InAdvance<Option<ConnPermit<C>>, C> {
        let place = self.in_advance(KeyState::place_to_spread)?;
        Ok(place.map(|place| place.map(|it| self.permit(it))))
    }

    /// What this step finds, while there is anybody who may use the connections.
    fn in_advance<T>(
        self: &Arc<Self>,
        step: impl FnOnce(&mut KeyState<C>, &mut StepCx<'_, C>) -> T,
    ) -> InAdvance<T, C> {
        let found = self.with(|state, cx| {
            if state.retired {
                return None;
            }
            let open = cx.mode == Mode::Open && !self.pool.is_orphaned();
            Some(open.then(|| step(state, cx)))
        });
        let found = found.ok_or_else(|| self.clone())?;
        Ok(found.ok_or(Denied::ShutDown))
    }

    fn permit(self: &Arc<Self>, index: usize) -> ConnPermit<C> {
        ConnPermit::new(self.clone(), index)
    }

    pub(crate) fn spares(&self) -> Option<Arc<Spares>> {
        self.spares.clone()
    }
}

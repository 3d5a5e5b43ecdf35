//! Takes connections if the load is spread over a name's addresses.

use tokio::runtime::Id;

use super::{Counting, KeyState, Stage, StepCx};
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;
use crate::pool::config::Scheduling;
use crate::pool::pooled_conn::PooledConn;

impl<C: Poolable> KeyState<C> {
    /// Takes a connection of the address that is next, and the reason if it is not usable.
    pub(super) fn take_spread(
        &mut self,
        runtime: Option<Id>,
        cx: &mut StepCx<'_, C>,
    ) -> Option<(Box<PooledConn<C>>, Option<CloseReason>)> {
        let lifo = cx.config.scheduling == Scheduling::Lifo;
        loop {
            let open = &self.open;
            let uses = |index: usize| match &open[index].stage {
                Stage::Shared(sharing) => sharing.uses(),
                _ => 0,
            };
            let fits = |index: usize| {
                let open = &open[index];
                match &open.stage {
                    Stage::Shared(sharing) => sharing.fits(runtime),
                    _ => open.runtime() == runtime,
                }
            };
            let index = self.places.as_mut()?.pick(lifo, uses, fits)?;
            if self.open[index].idle.is_some() {
                return Some(self.take_idle_at(index, cx));
            }
            if let Some(pooled) = self.split_or_drain(index, cx) {
                let places = self.places.as_mut();
                cx.deferred.is_crowded |= places.is_some_and(|it| it.is_crowded(cx.now.mono));
                return Some((pooled, None));
            }
            self.grant_permits(cx);
        }
    }

    /// A use of a connection that has others. `None`: it makes no further ones, or none this time.
    fn split_or_drain(
        &mut self,
        index: usize,
        cx: &mut StepCx<'_, C>,
    ) -> Option<Box<PooledConn<C>>> {
        let sharing = self.open[index].sharing().expect("several share it");
        let over = sharing.close_reason(cx.now);
        let pooled = match over {
            None => sharing.split(cx.now),
            Some(_) => None,
        };
        match &pooled {
            Some(_) => self.update_roomy(index),
            None => self.drain(index, over.unwrap_or(CloseReason::Peer), cx),
        }
        pooled
    }

    /// Whether the load is to be spread by one more connection: shared connections have more uses than one each, some
    /// address has none, and no limit is in the way.
    pub(super) fn is_narrow(&self, cx: &StepCx<'_, C>) -> bool {
        let counted = (self.open.iter()).filter(|(_, open)| open.counting == Counting::Counted);
        let uses = counted.map(|(_, open)| open.uses_now());
        self.places.is_some()
            && self.capacity.is_known_shared()
            && self.capacity.has_none_aside()
            && self.queue.blocked() == 0
            && self.counted < cx.config.max_connections_per_host
            && self.idle.len() < cx.config.max_idle_per_host
            && uses.sum::<usize>() > self.counted
            && cx
                .trials
                .is_some_and(|addresses| addresses.lacks_connections(cx.now.mono))
    }

    /// The connection is idle from now on.
    #[inline]
    pub(super) fn note_idle(&mut self, index: usize) {
        if let Some(places) = &mut self.places {
            places.idle(index);
        }
    }

    /// Whether the lists by address match the connections.
    #[cfg(test)]
    pub(in crate::pool) fn places_hold(&self) -> bool {
        let Some(places) = &self.places else {
            return true;
        };
        let connected = self.open.iter().filter(|(_, open)| open.shared().is_some());
        let idle = self.open.iter().filter(|(_, open)| open.idle.is_some());
        let mut listed = places.idle_now();
        listed.sort_unstable();
        places.open_now() == connected.count()
            && listed.into_iter().eq(idle.map(|(index, _)| index))
    }
}

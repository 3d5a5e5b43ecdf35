//! Takes connections if the load is spread over a name's addresses.

use slab::Slab;
use tokio::runtime::Id;

use super::{Counting, KeyState, Open, Stage, StepCx};
use crate::clock::Moment;
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
            let places = self.places.as_ref()?;
            let (uses, fits) = (uses_of(&self.open), fits(&self.open, runtime));
            let index = places.pick(lifo, uses, fits)?;
            self.note_taken(index);
            if self.open[index].idle.is_some() {
                return Some(self.take_idle_at(index, cx));
            }
            if let Some(pooled) = self.split_or_drain(index, cx) {
                self.note_crowded(cx);
                return Some((pooled, None));
            }
            self.grant_permits(cx);
        }
    }

    /// Takes a connection of the address that is next, if it is usable as it is; also returns whether it was idle.
    #[inline(never)]
    pub(super) fn pop_spread(
        &mut self,
        runtime: Option<Id>,
        now: Moment,
        scheduling: Scheduling,
    ) -> Option<(Box<PooledConn<C>>, bool)> {
        let (uses, fits) = (uses_of(&self.open), fits(&self.open, runtime));
        let places = self.places.as_ref()?;
        let index = places.first(scheduling == Scheduling::Lifo, uses, fits)?;
        if C::SHARED && self.open[index].idle.is_none() {
            return Some((self.pop_use_of_spread(index, now)?, false));
        }
        let pooled = self.pop_idle_at(index, runtime, now)?;
        if let Some(places) = &mut self.places {
            places.taken_idle(index);
        }
        Some((pooled, true))
    }

    /// A further use of this connection, unless the load is to be spread more, or the connection makes no further ones.
    fn pop_use_of_spread(&mut self, index: usize, now: Moment) -> Option<Box<PooledConn<C>>> {
        let places = self.places.as_mut()?;
        let sharing = self.open[index].sharing()?;
        if places.is_crowd_due(now.mono) || sharing.close_reason(now).is_some() {
            return None;
        }
        let pooled = sharing.split(now, None)?;
        self.note_taken(index);
        self.note_uses(index);
        self.update_roomy(index);
        Some(pooled)
    }

    /// The connection of this place was [kept](Self::keep), and the load is spread.
    #[inline(never)]
    pub(super) fn note_kept(&mut self, index: usize, is_idle: bool) {
        if C::SHARED && matches!(self.open[index].stage, Stage::Shared(_)) {
            self.note_uses(index);
        }
        if is_idle {
            self.note_idle(index);
        }
    }

    /// A connection in use has got a further use: the task that spreads the load is woken once in a while.
    pub(super) fn note_crowded(&mut self, cx: &mut StepCx<'_, C>) {
        let places = self.places.as_mut();
        cx.deferred.is_crowded |= places.is_some_and(|it| it.note_crowded(cx.now.mono));
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
            None => sharing.split(cx.now, None),
            Some(_) => None,
        };
        match &pooled {
            Some(_) => {
                self.note_uses(index);
                self.update_roomy(index);
            }
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

    /// This many uses of a shared connection are given out from now on.
    pub(super) fn note_uses(&mut self, index: usize) {
        if let Some(places) = &mut self.places {
            places.uses(index, uses_of(&self.open)(index));
        }
    }

    fn note_taken(&mut self, index: usize) {
        if let Some(places) = &mut self.places {
            places.taken(index);
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
        let is_roomy = |(_, open): &(usize, &Open<C>)| open.is_listed_roomy();
        let roomy = self.open.iter().filter(is_roomy);
        let lists = |mut listed: Vec<usize>, expected: Vec<usize>| {
            listed.sort_unstable();
            listed == expected
        };
        places.ranks_hold(uses_of(&self.open))
            && places.open_now() == connected.count()
            && lists(places.idle_now(), idle.map(|(index, _)| index).collect())
            && lists(places.roomy_now(), roomy.map(|(index, _)| index).collect())
    }
}

/// How many uses of a shared connection are given out.
#[inline]
fn uses_of<C: Poolable>(open: &Slab<Open<C>>) -> impl Fn(usize) -> usize {
    |index| match &open[index].stage {
        Stage::Shared(sharing) => sharing.uses(),
        _ => 0,
    }
}

/// Whether a caller in this runtime may have a connection that is idle, or a use of one that is shared.
#[inline]
fn fits<C: Poolable>(open: &Slab<Open<C>>, runtime: Option<Id>) -> impl Fn(usize) -> bool {
    move |index| {
        let open = &open[index];
        match &open.stage {
            Stage::Shared(sharing) => sharing.fits(runtime),
            _ => open.runtime() == runtime,
        }
    }
}

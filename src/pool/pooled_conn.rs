//! What a pool keeps of a connection: its place, and the connection while nobody uses it.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Handle, Id};

use crate::agent::EventKind;
use crate::clock::Moment;
use crate::connection::close_reason::Cause;
use crate::connection::poolable::Poolable;
use crate::pool::key_pool::HostPool;
use crate::pool::list::Spot;

/// Made once a connection, and moved with it ever after: from the pool into the connection's lifespan when it is taken,
/// from there into its lease, and back. So a lease, and what a response body holds, cost no allocation.
#[derive(Debug)]
pub(crate) struct Berth<C> {
    /// Where it belongs. Not while it is idle: the host would keep itself.
    home: Option<Arc<HostPool<C>>>,
    /// Its place there.
    slot: Spot,
    /// Its place among the idle of all hosts.
    pub(super) place: Spot,
    /// Where its driver lives.
    runtime: Option<Id>,
    /// Since when it is idle, or was until it was taken. `None`: it has been in use since.
    pub(super) idle_since: Option<Moment>,
    /// When its time is up, as of when it was put.
    pub(super) deadline: Option<Moment>,
    conn: Option<C>,
}

// Each connection has one.
#[cfg(all(test, target_os = "linux", target_pointer_width = "64"))]
const _: () = assert!(size_of::<Berth<Box<()>>>() <= 96);

/// What a caller was given and has no use for, and why.
#[derive(Debug)]
pub(crate) struct Spoiled<C> {
    pub(super) berth: Box<Berth<C>>,
    pub(super) cause: Cause,
}

impl<C> Spoiled<C> {
    pub(crate) fn new(berth: Box<Berth<C>>, cause: Cause) -> Self {
        Self { berth, cause }
    }
}

impl<C: Poolable> Berth<C> {
    pub(super) fn new(slot: Spot, conn: C) -> Self {
        Self {
            home: None,
            slot,
            place: Spot::NONE,
            runtime: current_runtime(),
            idle_since: None,
            deadline: None,
            conn: Some(conn),
        }
    }

    /// The berth of a connection that no pool made: closed after its use.
    pub(crate) fn homeless(conn: C) -> Self {
        Self::new(Spot::NONE, conn)
    }

    #[inline]
    pub(super) fn runtime(&self) -> Option<Id> {
        self.runtime
    }

    /// Whether its driver lives in this runtime.
    pub(crate) fn lives_in(&self, runtime: Id) -> bool {
        self.runtime == Some(runtime)
    }

    /// In the pool that made it.
    #[inline]
    pub(super) fn slot(&self) -> Option<usize> {
        self.slot.get()
    }

    #[inline]
    pub(super) fn take_home(&mut self) -> Option<Arc<HostPool<C>>> {
        self.home.take()
    }

    #[inline]
    pub(super) fn set_home(&mut self, home: Arc<HostPool<C>>) {
        self.home = Some(home);
    }

    #[inline]
    pub(crate) fn connection(&mut self) -> &mut C {
        self.conn
            .as_mut()
            .expect("with its connection, if boxed by itself")
    }

    #[inline]
    pub(crate) fn connection_ref(&self) -> &C {
        self.conn
            .as_ref()
            .expect("with its connection, if boxed by itself")
    }

    /// It serves a caller that it was not made for, from now on.
    ///
    /// `waited`: how long the caller stood in line for it.
    #[inline]
    pub(crate) fn check_out(&mut self, now: Moment, waited: Option<Duration>) {
        let since = self.idle_since;
        let idle_since = since.map_or(now.mono, |since| since.mono);
        let lifespan = self.connection().lifespan_mut();
        lifespan.check_out(Some((idle_since, now.mono)));
        if let Some(home) = &self.home {
            home.books().reused();
            home.tell(Some(self.id()), || match waited {
                Some(waited) => EventKind::HandedOver { waited },
                None => EventKind::Reused {
                    idle_for: now.since(since.unwrap_or(now)),
                },
            });
        }
    }

    /// Why it may not be used any more, if it may not: for one that was put, on every way to another use.
    #[inline]
    pub(crate) fn is_over(&self, now: Moment) -> Option<Cause> {
        let conn = self.connection_ref();
        if conn.lifespan().bond().is_poisoned() {
            return Some(Cause::Poisoned);
        }
        if !conn.is_open() {
            return Some(Cause::Stale);
        }
        let is_late = self.deadline?.is_reached_at(now);
        is_late.then(|| self.why_late())
    }

    /// Why its time is up at its deadline. No limit has changed since it was put.
    #[cold]
    pub(super) fn why_late(&self) -> Cause {
        let lifespan = self.connection_ref().lifespan();
        let deadline = self.idle_since.and_then(|it| lifespan.deadline(it));
        deadline.map_or(Cause::Idle, |it| it.cause)
    }

    /// The connection's number.
    #[inline]
    pub(super) fn id(&self) -> u64 {
        self.connection_ref().lifespan().bond().id()
    }

    /// The connection, with its berth hidden in it.
    #[inline]
    pub(crate) fn into_connection(mut self: Box<Self>) -> C {
        let mut conn = self.conn.take().expect("with its connection");
        conn.lifespan_mut().set_berth(self);
        conn
    }

    /// The berth that is hidden in a connection, around it.
    #[inline]
    pub(crate) fn around(mut conn: C) -> Box<Self> {
        let Some(berth) = conn.lifespan_mut().take_berth() else {
            return Box::new(Self::homeless(conn));
        };
        match berth.downcast::<Self>() {
            Ok(mut berth) => {
                berth.conn = Some(conn);
                berth
            }
            Err(_) => {
                debug_assert!(
                    false,
                    "something between Checkin and Checkout changes the connection's type: it cannot be pooled"
                );
                Box::new(Self::homeless(conn))
            }
        }
    }

    /// The use is over and the connection can be used again. One that no pool made is dropped.
    #[inline]
    pub(crate) fn give_back(mut self: Box<Self>) {
        if let Some(home) = self.home.take() {
            self.connection().lifespan().bond().activity().end_use();
            self.idle_since = None;
            home.put(self);
        } else if !self.connection().is_open() {
            self.close(Cause::Peer);
        }
    }

    /// It was not used, and is idle for as long as it was before.
    pub(crate) fn give_back_unused(mut self: Box<Self>) {
        if let Some(home) = self.home.take() {
            home.put(self);
        }
    }

    /// An exchange came to its end on it.
    #[inline]
    pub(crate) fn completed(&self) {
        if let Some(home) = &self.home {
            home.books().completed();
        }
    }

    /// Ends the transport, and the connection with it. Never under a lock.
    pub(crate) fn close(mut self, cause: Cause) {
        if let Some(mut conn) = self.conn.take() {
            conn.lifespan_mut().end(cause);
        }
    }
}

/// The runtime that we are in, if any.
#[inline]
pub(crate) fn current_runtime() -> Option<Id> {
    Handle::try_current().ok().map(|runtime| runtime.id())
}

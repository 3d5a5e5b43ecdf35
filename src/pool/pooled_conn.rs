//! A connection with its entry in the pool.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Handle, Id};

use crate::agent::EventKind;
use crate::clock::Moment;
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;
use crate::connection::shared::CloseHook;
use crate::pool::key_pool::KeyPool;
use crate::pool::list::SlabIndex;

/// A connection with its entry in the pool. It is boxed once, when the connection is made, and the box is moved from
/// the idle list into a lease or a response body and back, so checkout and checkin do not allocate.
#[derive(Debug)]
pub(crate) struct PooledConn<C> {
    /// The pool that it belongs to. `None` while it is idle: the key pool would keep itself alive.
    key_pool: Option<Arc<KeyPool<C>>>,
    /// Its place in the key pool.
    index: SlabIndex,
    /// Its place in the order of idleness over all keys.
    pub(super) total_index: SlabIndex,
    /// The runtime of its driver.
    runtime: Option<Id>,
    /// Since when it is idle, or was until it was taken. `None` once it has been used.
    pub(super) idle_since: Option<Moment>,
    /// When it expires, computed when it was returned.
    pub(super) deadline: Option<Moment>,
    conn: C,
}

// Every connection has one.
#[cfg(all(test, target_os = "linux", target_pointer_width = "64"))]
const _: () = assert!(size_of::<PooledConn<Box<()>>>() <= 96);

/// A connection that a caller was given and cannot use, and why.
#[derive(Debug)]
pub(crate) struct Rejected<C> {
    pub(super) pooled: Box<PooledConn<C>>,
    pub(super) reason: CloseReason,
}

impl<C> Rejected<C> {
    pub(crate) fn new(pooled: Box<PooledConn<C>>, reason: CloseReason) -> Self {
        Self { pooled, reason }
    }
}

impl<C: Poolable> PooledConn<C> {
    pub(super) fn new(index: SlabIndex, conn: C) -> Self {
        Self {
            key_pool: None,
            index,
            total_index: SlabIndex::NONE,
            runtime: current_runtime(),
            idle_since: None,
            deadline: None,
            conn,
        }
    }

    /// Makes a use of this connection. `hook` runs when the use is dropped. `Err`: the use was gone at once. May be called
    /// under the lock, so no hook runs here.
    pub(super) fn new_use(&self, conn: C, hook: CloseHook) -> Result<Box<Self>, Box<Self>> {
        let kept = conn.lifespan().shared().try_on_close(hook);
        let pooled = Box::new(Self {
            runtime: self.runtime,
            ..Self::new(self.index, conn)
        });
        match kept {
            Ok(()) => Ok(pooled),
            Err(hook) => {
                hook.forget();
                Err(pooled)
            }
        }
    }

    #[inline]
    pub(super) fn runtime(&self) -> Option<Id> {
        self.runtime
    }

    /// Whether its driver runs in this runtime.
    pub(crate) fn lives_in(&self, runtime: Id) -> bool {
        self.runtime == Some(runtime)
    }

    /// Its place in the pool that made it.
    #[inline]
    pub(super) fn index(&self) -> Option<usize> {
        self.index.get()
    }

    #[inline]
    pub(super) fn take_key_pool(&mut self) -> Option<Arc<KeyPool<C>>> {
        self.key_pool.take()
    }

    #[inline]
    pub(super) fn set_key_pool(&mut self, key_pool: Arc<KeyPool<C>>) {
        self.key_pool = Some(key_pool);
    }

    #[inline]
    pub(crate) fn connection(&mut self) -> &mut C {
        &mut self.conn
    }

    #[inline]
    pub(crate) fn connection_ref(&self) -> &C {
        &self.conn
    }

    /// The connection serves, from now on, a caller for which it was not made.
    ///
    /// `waited`: how long the caller waited for it in the queue.
    #[inline]
    pub(crate) fn check_out(&mut self, now: Moment, waited: Option<Duration>) {
        let since = self.idle_since;
        let idle_since = since.map_or(now.mono, |since| since.mono);
        let lifespan = self.connection().lifespan_mut();
        lifespan.check_out(Some((idle_since, now.mono)));
        if let Some(key_pool) = &self.key_pool {
            key_pool.agent().reused();
            let shared = self.connection_ref().lifespan().shared();
            key_pool.emit_reused(shared, || match waited {
                Some(waited) => EventKind::HandedOver { waited },
                None => EventKind::Reused {
                    idle_for: now.since(since.unwrap_or(now)),
                },
            });
        }
    }

    /// Records that a caller got it after this time in the queue.
    #[inline]
    pub(crate) fn waited(&self, time: Duration) {
        if let Some(key_pool) = &self.key_pool {
            key_pool.waited(time, self);
        }
    }

    /// Whether the caller collected the connection so late that the server may have closed it meanwhile.
    pub(crate) fn was_collected_late(&self, now: Moment) -> bool {
        const LONG: Duration = Duration::from_secs(1);
        self.idle_since.is_some_and(|made| now.since(made) >= LONG)
    }

    /// Why the connection may not be used any more; `None` if it may. Every way to another use asks this.
    #[inline]
    pub(crate) fn close_reason(&self, now: Moment) -> Option<CloseReason> {
        let conn = self.connection_ref();
        if let Some(reason) = conn.lifespan().shared().excluded() {
            return Some(reason);
        }
        if !conn.is_open() {
            return Some(CloseReason::Stale);
        }
        let is_late = self.deadline?.is_reached_at(now);
        is_late.then(|| self.expiry_reason())
    }

    /// The reason behind its deadline. None of its own limits has changed since it was returned.
    #[cold]
    pub(super) fn expiry_reason(&self) -> CloseReason {
        let lifespan = self.connection_ref().lifespan();
        let deadline = self.idle_since.and_then(|it| lifespan.deadline(it));
        // A limit that was learned from the server may come before its own limits.
        let ends = self.deadline.map(|it| it.mono);
        let deadline = deadline.filter(|it| ends.is_none_or(|ends| it.at.mono <= ends));
        deadline.map_or(CloseReason::Idle, |it| it.reason)
    }

    /// The connection's number.
    #[inline]
    pub(crate) fn id(&self) -> u64 {
        self.connection_ref().lifespan().shared().id()
    }

    /// The use is over, and the connection can be used again.
    #[inline]
    pub(crate) fn give_back(mut self: Box<Self>) {
        if let Some(key_pool) = self.key_pool.take() {
            let activity = self.conn.lifespan().shared().activity();
            // A shared connection has counted its uses when they were given out.
            let was_used = !C::SHARED || activity.is_in_use();
            activity.end_use();
            if was_used {
                self.idle_since = None;
            }
            key_pool.put(self);
        }
    }

    /// An exchange on it has ended.
    #[inline]
    pub(crate) fn completed(&self) {
        if let Some(key_pool) = &self.key_pool {
            key_pool.agent().completed();
        }
    }

    /// The caller could not use the connection, and fails.
    #[cold]
    pub(crate) fn unused(&self) {
        if let Some(key_pool) = &self.key_pool {
            key_pool.agent().uncompleted(false, true);
        }
    }

    /// The use had a response, and its caller did not want all of it; the connection can be used again.
    #[cold]
    pub(crate) fn cut_short(&self) {
        if let Some(key_pool) = &self.key_pool {
            key_pool.agent().uncompleted(true, false);
        }
    }

    /// The use has not ended, and the connection ends with it, for this reason unless another one was recorded.
    #[cold]
    pub(crate) fn close_uncompleted(self, reason: CloseReason) {
        if let Some(key_pool) = &self.key_pool {
            let shared = self.connection_ref().lifespan().shared();
            if shared.activity().has_given_back() {
                key_pool.agent().resent();
                return self.close(reason);
            }
            let has_head = shared.activity().exchange_without_head().is_none();
            let reason = shared.reason().unwrap_or(reason);
            key_pool.agent().uncompleted(has_head, reason.is_failure());
        }
        self.close(reason);
    }

    /// Closes the transport and the connection. Never called under a lock.
    pub(crate) fn close(mut self, reason: CloseReason) {
        self.conn.lifespan_mut().end_use(reason);
    }
}

/// The current runtime, if any.
#[inline]
pub(crate) fn current_runtime() -> Option<Id> {
    Handle::try_current().ok().map(|runtime| runtime.id())
}

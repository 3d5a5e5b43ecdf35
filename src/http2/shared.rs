//! What the driver of a connection and the connection's uses share.

use std::sync::{Arc, OnceLock};
use std::task::Waker;

use crate::connection::close_reason::CloseReason;
use crate::connection::shared::{ChangeHook, ConnShared};
use crate::http2::frames::{GoAway, Said};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// One a connection. What the pool asks about, under its lock, are atomics.
#[derive(Debug)]
pub(super) struct Http2Shared {
    /// The connection's own, not that of a use.
    conn: Arc<ConnShared>,
    flags: AtomicU8,
    /// How many streams the server allows. Without a meaning until it has said so.
    peer_limit: AtomicUsize,
    own_limit: usize,
    /// How many streams have begun, be they over or not; or, after the last one that may, more than that.
    begun: AtomicU32,
    /// How often something was read.
    reads: AtomicU64,
    /// How often something was written.
    writes: AtomicU64,
    /// The transport has no room for what is to be written.
    write_waits: AtomicBool,
    go_away: OnceLock<GoAway>,
    hook: OnceLock<ChangeHook>,
    driver: OnceLock<Waker>,
}

/// The server has said how many streams it allows.
const HEARD: u8 = 1;
/// It may have no further uses: the server said so, it is broken, or there are no more ids.
const CLOSED: u8 = 2;
/// The driver has not told the pool yet that something has changed.
const NEWS: u8 = 4;
/// A SETTINGS frame was read, and not yet asked about.
const SETTINGS: u8 = 8;

/// So many streams can a client begin on one connection (RFC 9113 §5.1.1).
const MAX_STREAMS: u32 = 1 << 30;

impl Http2Shared {
    /// `begun`: how many streams count as begun at first.
    pub(super) fn new(conn: Arc<ConnShared>, own_limit: usize, begun: u32) -> Self {
        Self {
            conn,
            flags: AtomicU8::new(0),
            peer_limit: AtomicUsize::new(usize::MAX),
            own_limit,
            begun: AtomicU32::new(begun),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            write_waits: AtomicBool::new(false),
            go_away: OnceLock::new(),
            hook: OnceLock::new(),
            driver: OnceLock::new(),
        }
    }

    #[inline]
    pub(super) fn conn(&self) -> &Arc<ConnShared> {
        &self.conn
    }

    /// Whether it may have further uses.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.flags.load(Ordering::Acquire) & CLOSED == 0
    }

    /// How many uses it can have, once that is known.
    #[inline]
    pub(super) fn capacity(&self) -> Option<usize> {
        if self.flags.load(Ordering::Acquire) & HEARD == 0 {
            return None;
        }
        let peer_limit = self.peer_limit.load(Ordering::Relaxed);
        Some(peer_limit.min(self.own_limit))
    }

    /// A stream begins, if there is an id for it.
    #[inline]
    pub(super) fn begin_stream(&self) -> bool {
        let begun = self.begun.fetch_add(1, Ordering::Relaxed);
        if begun + 1 < MAX_STREAMS {
            return true;
        }
        self.ids_end(begun)
    }

    #[cold]
    fn ids_end(&self, begun: u32) -> bool {
        // From here on it does not count further, so that it never begins anew.
        self.begun.store(MAX_STREAMS, Ordering::Relaxed);
        self.close(CloseReason::Uses);
        begun < MAX_STREAMS
    }

    /// It may have no further uses.
    #[cold]
    pub(super) fn close(&self, reason: CloseReason) {
        self.conn.set_close_reason(reason);
        let before = self.flags.fetch_or(CLOSED | NEWS, Ordering::AcqRel);
        if before & CLOSED == 0 {
            self.wake_driver();
        }
    }

    /// What a frame said.
    #[cold]
    pub(super) fn hear(&self, said: Said) {
        match said {
            Said::Settings => {
                self.flags.fetch_or(SETTINGS, Ordering::AcqRel);
            }
            Said::GoAway(go_away) => {
                // The last one tells more than the one that announced it; but the first has the reason.
                let _ = self.go_away.set(go_away);
                self.close(CloseReason::GoAway);
            }
        }
    }

    pub(super) fn go_away(&self) -> Option<&GoAway> {
        self.go_away.get()
    }

    /// Something was read.
    #[inline]
    pub(super) fn read(&self) {
        let reads = self.reads.load(Ordering::Relaxed);
        // By the driver alone.
        self.reads.store(reads.wrapping_add(1), Ordering::Relaxed);
    }

    /// Something was written, or may have been.
    #[inline]
    pub(super) fn wrote(&self) {
        let writes = self.writes.load(Ordering::Relaxed);
        // By the driver alone.
        self.writes.store(writes.wrapping_add(1), Ordering::Release);
    }

    pub(super) fn set_write_waits(&self, waits: bool) {
        self.write_waits.store(waits, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Acquire)
    }

    pub(super) fn set_hook(&self, hook: ChangeHook) {
        let _ = self.hook.set(hook);
        // What was heard before may not have been told to anybody.
        self.flags.fetch_or(NEWS, Ordering::AcqRel);
        self.wake_driver();
    }

    pub(super) fn set_driver(&self, waker: &Waker) {
        if self.driver.get().is_none() {
            let _ = self.driver.set(waker.clone());
        }
    }

    fn wake_driver(&self) {
        if let Some(driver) = self.driver.get() {
            driver.wake_by_ref();
        }
    }

    /// Whether there is something for the driver to ask about or to tell.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        self.flags.load(Ordering::Acquire) & (NEWS | SETTINGS) != 0
    }

    /// Whether SETTINGS were read since this was asked last. `h2` applies them when it has room for the acknowledgement.
    pub(super) fn take_settings(&self) -> bool {
        !self.write_waits.load(Ordering::Relaxed)
            && self.flags.fetch_and(!SETTINGS, Ordering::AcqRel) & SETTINGS != 0
    }

    /// The server allows so many streams.
    pub(super) fn set_peer_limit(&self, limit: usize) {
        self.peer_limit.store(limit, Ordering::Relaxed);
        self.flags.fetch_or(HEARD | NEWS, Ordering::AcqRel);
    }

    /// Tells the pool, if something has changed. Said by the driver, and not under any lock.
    pub(super) fn tell(&self) {
        let Some(hook) = self.hook.get() else {
            return;
        };
        if self.flags.fetch_and(!NEWS, Ordering::AcqRel) & NEWS != 0 {
            hook.run();
        }
    }
}

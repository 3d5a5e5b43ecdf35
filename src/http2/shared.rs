//! The state that the driver of a connection and the connection's uses share.

use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::connection::close_reason::CloseReason;
use crate::connection::shared::{ChangeHook, ConnShared, Streams};
use crate::http2::deadlines::{Deadlines, Exchange};
use crate::http2::frames::GoAway;
use crate::http2::silence::Watched;
use crate::http2::stream::StreamShared;
use crate::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// One for each connection. Whatever the pool reads under its lock is atomic.
#[derive(Debug)]
pub(super) struct Http2Shared {
    /// The connection's own, not that of a use.
    conn: Arc<ConnShared>,
    flags: AtomicU16,
    /// How many streams the server allows. Not meaningful before the server has announced it.
    peer_limit: AtomicUsize,
    /// The same by the latest SETTINGS, which the driver makes the `peer_limit`.
    announced: AtomicUsize,
    own_limit: usize,
    max_interim: u16,
    /// How many streams there may be after the server has refused one.
    ceiling: AtomicUsize,
    /// The number of owners: the pool, and each use.
    holders: AtomicUsize,
    /// The streams in progress, which the infos of exchanges show.
    streams: Arc<Streams>,
    /// The number of streams that were ever begun.
    begun: AtomicU32,
    /// How often something was read.
    reads: AtomicU64,
    /// Something of a response was read since the last call of `take_answering`.
    is_answering: AtomicBool,
    /// How often something was written.
    writes: AtomicU64,
    /// The shortest limit of silence, in milliseconds, of the present streams.
    limit: AtomicU32,
    go_away: OnceLock<GoAway>,
    hook: OnceLock<ChangeHook>,
    driver: OnceLock<Waker>,
    uses: Mutex<Uses>,
    watched: Watched,
}

/// The uses and deadlines that the driver has to check.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// All uses that were made.
    pub(super) made: Vec<Weak<StreamShared>>,
    pub(super) deadlines: Deadlines,
    /// Exchanges with time limits, of whose requests `h2` has taken everything.
    sending: Vec<Exchange>,
}

/// The server has announced how many streams it allows.
const HEARD: u16 = 1;
/// No further uses: the server has said so, the connection has failed, or there are no more ids.
const CLOSED: u16 = 2;
/// The pool does not know yet that something has changed.
const NEWS: u16 = 4;
/// A SETTINGS frame was read, and the driver has not been polled since.
const SETTINGS: u16 = 8;
/// A request was given up while it awaited the server, and nothing was read since: the server may be gone.
const DOUBT: u16 = 16;
/// The server has asked for a pause.
const PAUSED: u16 = 32;
/// The driver does not know yet about the deadline of an exchange.
const DEADLINE: u16 = 64;
/// The driver does not know yet about a new limit of silence.
const LIMIT: u16 = 128;
/// In doubt, the server has not shown itself for so long that nobody waits for it any more.
const OVERDUE: u16 = 256;
/// Requests with time limits are being written.
const SENDING: u16 = 512;

/// How many streams a client can begin on one connection (RFC 9113 §5.1.1).
const MAX_STREAMS: u32 = 1 << 30;

/// The value of a limit of silence that does not exist.
const NO_LIMIT: u32 = u32::MAX;

impl Http2Shared {
    /// `begun`: how many streams count as begun at first.
    pub(super) fn new(
        conn: Arc<ConnShared>,
        own_limit: usize,
        max_interim: u16,
        begun: u32,
    ) -> Self {
        let transport = conn.transport();
        let streams = transport.and_then(|it| it.streams.clone());
        Self {
            streams: streams.unwrap_or_default(),
            conn,
            flags: AtomicU16::new(0),
            peer_limit: AtomicUsize::new(usize::MAX),
            announced: AtomicUsize::new(usize::MAX),
            own_limit,
            max_interim,
            ceiling: AtomicUsize::new(usize::MAX),
            holders: AtomicUsize::new(0),
            begun: AtomicU32::new(begun),
            reads: AtomicU64::new(0),
            is_answering: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            limit: AtomicU32::new(NO_LIMIT),
            go_away: OnceLock::new(),
            hook: OnceLock::new(),
            driver: OnceLock::new(),
            uses: Mutex::new(Uses::default()),
            watched: Watched::default(),
        }
    }

    #[inline]
    pub(super) fn conn(&self) -> &Arc<ConnShared> {
        &self.conn
    }

    /// The maximum number of streams by the own setting.
    pub(super) fn own_limit(&self) -> usize {
        self.own_limit
    }

    /// The maximum number of interim responses to one request.
    #[inline]
    pub(super) fn max_interim(&self) -> u16 {
        self.max_interim
    }

    #[inline]
    fn has(&self, flags: u16) -> bool {
        self.flags.load(Ordering::Acquire) & flags != 0
    }

    /// Whether it may have further uses.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        !self.has(CLOSED)
    }

    /// How many uses it can have, once that is known.
    #[inline]
    pub(super) fn capacity(&self) -> Option<usize> {
        let flags = self.flags.load(Ordering::Acquire);
        if flags & (HEARD | DOUBT | PAUSED) != HEARD {
            return (flags & (DOUBT | PAUSED) != 0).then_some(0);
        }
        let peer_limit = self.peer_limit.load(Ordering::Relaxed);
        let ceiling = self.ceiling.load(Ordering::Relaxed);
        Some(peer_limit.min(self.own_limit).min(ceiling))
    }

    /// Takes the id of one more stream; whether there is one.
    #[inline]
    pub(super) fn has_id(&self) -> bool {
        let begun = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        begun < MAX_STREAMS || self.ids_end(begun)
    }

    /// How many streams have begun, be they over or not.
    pub(super) fn begun(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }

    #[cold]
    fn ids_end(&self, begun: u32) -> bool {
        // Stops counting here, so that the counter never wraps around.
        self.begun.store(MAX_STREAMS, Ordering::Relaxed);
        self.close(CloseReason::Uses);
        begun == MAX_STREAMS
    }

    /// A stream begins that may be silent for `limit` milliseconds.
    #[inline]
    pub(super) fn stream_begins(&self, limit: Option<u32>) {
        // Before the limit is read: see `forget_limit`.
        self.streams.begin();
        if let Some(limit) = limit
            && limit < self.limit.load(Ordering::SeqCst)
        {
            self.shorten_limit(limit);
        }
    }

    #[cold]
    fn shorten_limit(&self, limit: u32) {
        self.limit.fetch_min(limit, Ordering::SeqCst);
        self.raise(LIMIT);
    }

    #[inline]
    pub(super) fn stream_is_over(&self) {
        self.streams.end();
        if self.ceiling.load(Ordering::Relaxed) != usize::MAX {
            self.has_room_again();
        }
    }

    /// The server has not answered a PING within this time. Called before the connection is closed.
    #[cold]
    pub(super) fn set_unanswered(&self, within: Duration) {
        self.streams.set_unanswered(within);
    }

    pub(super) fn has_streams(&self) -> bool {
        self.streams.has_any()
    }

    #[inline]
    pub(super) fn has_several_streams(&self) -> bool {
        self.streams.in_use() > 1
    }

    /// The server has refused a stream within its own limit: the connection has no room until one of the others ends.
    #[cold]
    pub(super) fn is_refused(&self) {
        let others = self.streams.in_use();
        self.ceiling.fetch_min(others.max(1), Ordering::Relaxed);
    }

    #[cold]
    fn has_room_again(&self) {
        self.ceiling.store(usize::MAX, Ordering::Relaxed);
        self.raise(NEWS);
    }

    /// The server has asked for a pause. Not called under a lock.
    #[cold]
    pub(super) fn pause(&self) {
        self.raise(PAUSED | NEWS);
        self.notify_pool();
    }

    pub(super) fn is_paused(&self) -> bool {
        self.has(PAUSED)
    }

    pub(super) fn end_pause(&self) {
        self.flags.fetch_or(NEWS, Ordering::AcqRel);
        self.flags.fetch_and(!PAUSED, Ordering::AcqRel);
    }

    /// A request was given up while it awaited the server: see [`ping`](crate::http2::ping). Not called under a lock.
    #[cold]
    pub(super) fn doubt(&self) {
        if !self.has(DOUBT | CLOSED) {
            self.raise(DOUBT | NEWS);
            // Reported at once: the caller may ask for a connection before the driver is polled.
            self.notify_pool();
        }
    }

    /// Adds an owner.
    pub(super) fn hold(&self) {
        self.holders.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes an owner. The last one wakes the driver, which then has to close the transport.
    pub(super) fn release(&self) {
        if self.holders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.raise(0);
        }
    }

    /// Whether nothing is sent until something is read.
    #[inline]
    pub(super) fn is_doubted(&self) -> bool {
        self.has(DOUBT)
    }

    /// Whether that has lasted for so long that callers do better with another connection.
    #[inline]
    pub(super) fn is_overdue(&self) -> bool {
        self.has(OVERDUE)
    }

    /// Called by the driver, which tells the pool.
    #[cold]
    pub(super) fn set_overdue(&self) {
        self.flags.fetch_or(OVERDUE | NEWS, Ordering::AcqRel);
    }

    /// The server has shown itself.
    #[cold]
    fn end_doubt(&self) {
        self.flags.fetch_or(NEWS, Ordering::AcqRel);
        self.flags.fetch_and(!(DOUBT | OVERDUE), Ordering::AcqRel);
    }

    /// Sets flags, and wakes the driver.
    #[cold]
    fn raise(&self, flags: u16) {
        self.flags.fetch_or(flags, Ordering::AcqRel);
        if let Some(driver) = self.driver.get() {
            driver.wake_by_ref();
        }
    }

    /// The connection gets no further uses.
    #[cold]
    pub(super) fn close(&self, reason: CloseReason) {
        self.conn.set_close_reason(reason);
        if self.is_open() {
            self.raise(CLOSED | NEWS);
        }
    }

    /// SETTINGS have arrived, and may say how many streams the server allows. `h2` applies them once there is room for the
    /// acknowledgement, which is never if the transport takes nothing more; so they are not asked of `h2`.
    #[cold]
    pub(super) fn has_settings(&self, max_streams: Option<u32>) {
        if let Some(max) = max_streams {
            self.announced.store(max as usize, Ordering::Relaxed);
        }
        self.flags.fetch_or(SETTINGS, Ordering::AcqRel);
    }

    /// A GOAWAY has arrived: the server accepts no new requests.
    #[cold]
    pub(super) fn goes_away(&self, go_away: GoAway) {
        // A first GOAWAY may only announce the next one, but it has the reason.
        let _ = self.go_away.set(go_away);
        self.close(CloseReason::GoAway);
    }

    pub(super) fn go_away(&self) -> Option<&GoAway> {
        self.go_away.get()
    }

    /// The fields of a response on this stream may be larger than allowed. `is_last`: the stream ends with them.
    #[cold]
    pub(super) fn has_large_fields(&self, stream: u32, is_last: bool) {
        let made = self.uses().made.clone();
        for of_use in made.iter().filter_map(Weak::upgrade) {
            if of_use.is_busy() && of_use.set_large_fields(stream, is_last) {
                return;
            }
        }
    }

    /// Something was read, of a response or not.
    #[inline]
    pub(super) fn read(&self, of_response: bool) {
        // Only the driver writes this counter.
        let reads = self.reads.load(Ordering::Relaxed);
        self.reads.store(reads.wrapping_add(1), Ordering::Relaxed);
        if of_response {
            self.is_answering.store(true, Ordering::Relaxed);
        }
        if self.is_doubted() {
            self.end_doubt();
        }
    }

    #[inline]
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Whether anything of a response was read since the last call.
    pub(super) fn take_answering(&self) -> bool {
        self.is_answering.swap(false, Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn watched(&self) -> &Watched {
        &self.watched
    }

    /// Something was written, or may have been.
    #[inline]
    pub(super) fn wrote(&self) {
        // Only the driver writes this counter.
        let writes = self.writes.load(Ordering::Relaxed);
        self.writes.store(writes.wrapping_add(1), Ordering::Release);
    }

    #[inline]
    pub(super) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Acquire)
    }

    pub(super) fn set_hook(&self, hook: ChangeHook) {
        let _ = self.hook.set(hook);
        // Changes before this were not reported to anybody.
        self.raise(NEWS);
    }

    pub(super) fn set_driver(&self, waker: &Waker) {
        let _ = self.driver.set(waker.clone());
    }

    /// A use was made.
    pub(super) fn add(&self, of_use: &Arc<StreamShared>) {
        let mut uses = self.uses();
        if uses.made.len() == uses.made.capacity() {
            uses.made.retain(|it| it.strong_count() > 0);
        }
        uses.made.push(Arc::downgrade(of_use));
    }

    /// The exchange of this use has to be over at `at`.
    #[cold]
    pub(super) fn add_deadline(&self, at: Instant, stream: &Arc<StreamShared>) {
        let is_next = self.uses().deadlines.add(at, stream);
        if is_next {
            self.raise(DEADLINE);
        }
    }

    /// `h2` has taken all of this exchange's request, which is being written.
    #[cold]
    pub(super) fn add_sending(&self, exchange: Exchange) {
        self.uses().sending.push(exchange);
        self.raise(SENDING);
    }

    /// Sets the deadlines of the responses whose requests `h2` has written.
    #[cold]
    fn note_written(&self) {
        let mut uses = self.uses();
        let Uses {
            deadlines, sending, ..
        } = &mut *uses;
        sending.retain(|it| match it.in_progress() {
            Some(stream) if stream.progress().is_over() => {
                if let Some(at) = stream.conn().response_deadline() {
                    deadlines.add(at, &stream);
                }
                false
            }
            stream => stream.is_some(),
        });
        if sending.is_empty() {
            self.flags.fetch_and(!SENDING, Ordering::AcqRel);
        }
    }

    /// Called by the driver after `h2` has written.
    pub(super) fn check_sending(&self) {
        if self.has(SENDING) {
            self.note_written();
        }
    }

    pub(super) fn uses(&self) -> MutexGuard<'_, Uses> {
        // Nothing that can panic runs under this lock, so it is never poisoned.
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the driver has anything to do.
    #[inline]
    pub(super) fn has_work(&self) -> bool {
        self.has(NEWS | SETTINGS | DOUBT | PAUSED | DEADLINE | LIMIT | SENDING)
    }

    /// The limit of silence, if it has become shorter since the last call.
    pub(super) fn take_limit(&self) -> Option<u32> {
        let is_new = self.has(LIMIT) && self.flags.fetch_and(!LIMIT, Ordering::AcqRel) & LIMIT != 0;
        is_new.then(|| self.limit.load(Ordering::SeqCst))
    }

    /// Forgets the limit of silence; the next stream sets it again. The caller has to check after this that there are
    /// no streams: a stream that begins meanwhile is either seen by that check or sets the limit again.
    pub(super) fn forget_limit(&self) {
        self.limit.store(NO_LIMIT, Ordering::SeqCst);
    }

    /// The driver is about to read the deadlines, also the new ones.
    pub(super) fn read_deadlines(&self) {
        if self.has(DEADLINE) {
            self.flags.fetch_and(!DEADLINE, Ordering::AcqRel);
        }
    }

    /// How many streams the server allows, if SETTINGS were read since the last call.
    pub(super) fn take_settings(&self) -> Option<usize> {
        let is_new =
            self.has(SETTINGS) && self.flags.fetch_and(!SETTINGS, Ordering::AcqRel) & SETTINGS != 0;
        is_new.then(|| self.announced.load(Ordering::Relaxed))
    }

    /// The server allows this many streams.
    pub(super) fn set_peer_limit(&self, limit: usize) {
        self.peer_limit.store(limit, Ordering::Relaxed);
        self.ceiling.store(usize::MAX, Ordering::Relaxed);
        self.flags.fetch_or(HEARD | NEWS, Ordering::AcqRel);
    }

    /// Reports a change to the pool, if there is one. Not called under a lock.
    pub(super) fn notify_pool(&self) {
        if self.has(NEWS)
            && self.flags.fetch_and(!NEWS, Ordering::AcqRel) & NEWS != 0
            && let Some(hook) = self.hook.get()
        {
            hook.run();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(peer_limit: usize, streams: usize) -> Http2Shared {
        let shared = Http2Shared::new(Arc::new(ConnShared::new()), 100, 100, 0);
        shared.set_peer_limit(peer_limit);
        for _ in 0..streams {
            shared.stream_begins(None);
        }
        shared
    }

    #[test]
    fn a_refusal_lowers_the_limit_and_never_raises_it() {
        let refuses = shared(10, 5);
        refuses.is_refused();
        assert_eq!(refuses.capacity(), Some(5));
        // Uses that were given out before.
        refuses.stream_begins(None);
        refuses.stream_begins(None);
        refuses.is_refused();
        assert_eq!(refuses.capacity(), Some(5));
        refuses.stream_is_over();
        assert_eq!(refuses.capacity(), Some(10), "there is room again");
        let lowered = shared(2, 5);
        lowered.is_refused();
        assert_eq!(lowered.capacity(), Some(2));
        let empty = shared(10, 0);
        empty.is_refused();
        assert_eq!(empty.capacity(), Some(1), "it may be asked again");
    }

    #[test]
    fn a_new_deadline_is_work_for_the_driver_until_it_reads_it() {
        let conn = Arc::new(ConnShared::new());
        let shared = Arc::new(Http2Shared::new(conn.clone(), 100, 100, 0));
        let stream = StreamShared::new(shared.clone(), conn);
        assert!(!shared.has_work());
        shared.add_deadline(Instant::now(), &stream);
        assert!(shared.has_work());
        shared.read_deadlines();
        assert!(!shared.has_work());
    }
}

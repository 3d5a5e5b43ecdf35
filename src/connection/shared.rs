//! The state that a connection's lifespan, driver, permit and infos share.

mod hooks;
mod kind;
mod request;
#[cfg(feature = "http2")]
mod streams;
mod timeouts;
mod uses;

use std::any::Any;
use std::fmt;
use std::iter;
use std::mem;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::clock::Moment;
use crate::connection::activity::Activity;
use crate::connection::close_reason::CloseReason;
use crate::connection::expectation::Expectation;
use crate::connection::shared::request::Rest;
use crate::connection::shared::timeouts::ExchangeTimeouts;
use crate::error::request_body::RequestBodyError;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::target::key::Key;

pub use hooks::{ChangeHook, CloseHook, TransportGuard};
use kind::Kind;
pub(crate) use kind::{Addresses, TransportInfo};
#[cfg(feature = "http2")]
pub(crate) use streams::Streams;
pub(crate) use timeouts::Blame;
pub(crate) use uses::EndedUse;

/// One for each connection. A successful exchange reads the id and the key, and counts in `activity`; an upload records
/// its beginning and end.
pub(crate) struct ConnShared {
    id: u64,
    /// One more than the index in `CloseReason::ALL` of the first recorded reason; 0 while there is none.
    reason: AtomicU8,
    /// `PEER_CLOSED`, `HTTP10`, `HTTP2` and `OBSERVED`: what is known about the server.
    peer: AtomicU8,
    /// Its exchange was given up before its end.
    unfinished: AtomicBool,
    /// hyper has not read the whole body of the request yet.
    uploading: AtomicBool,
    /// `FINISHING`, `ORPHANED`, `RESTS`, `BODY_FAILED` and `TIMED`: with one load the driver knows whether it has more
    /// to do than to wait.
    driver_flags: AtomicU16,
    activity: Activity,
    expectation: Expectation,
    /// `KILLED`, `DETACHED`, `UPGRADED`, `POISONED`, `OMITS`, `OF_USE`, `MOVED` and `GONE`: with one load the transport knows
    /// that none of them applies.
    state: AtomicU8,
    key: OnceLock<Key>,
    born: OnceLock<Moment>,
    /// Empty if the transport told nothing. Boxed, because custom connections have none.
    kind: OnceLock<Box<Kind>>,
    close_state: Mutex<CloseState>,
}

/// How long a connection may take to finish a use after its lease was dropped.
pub(crate) const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// The response is over, and the connection is not free yet.
const FINISHING: u16 = 1;
/// The connection has no owner any more: its driver only has to close it.
const ORPHANED: u16 = 2;
/// hyper has the announced length of a request's body, and the body's end is awaited.
const RESTS: u16 = 4;
/// The request's own body has failed.
const BODY_FAILED: u16 = 8;
/// How long the rest of a response may be read; 0 while it is not being read.
const READING_REST: u16 = 0xf0;
const READING_REST_SHIFT: u8 = 4;
/// The present exchange, or the one before it, has time limits.
const TIMED: u16 = 0x100;

const PEER_CLOSED: u8 = 1;
/// The server has answered in HTTP/1.0, and so hyper uses HTTP/1.0 from then on.
const HTTP10: u8 = 2;
/// The connection uses HTTP/2.
#[cfg(feature = "http2")]
const HTTP2: u8 = 4;
/// Somebody is told how its exchanges end.
const OBSERVED: u8 = 8;

const KILLED: u8 = 1;
const DETACHED: u8 = 2;
const UPGRADED: u8 = 4;
const POISONED: u8 = 8;
/// Set under the lock of `close_state`.
const GONE: u8 = 16;
/// One byte of the request is not to be written; `CloseExtras` has its position.
const OMITS: u8 = 32;
/// Belongs to one use of a connection that several share.
const OF_USE: u8 = 64;
/// Its address was left while it was in use.
const MOVED: u8 = 128;

/// A transport that can be closed from outside while its driver owns it.
pub(crate) trait Close: Send + Sync {
    /// Closes it at once, without a shutdown of the protocol.
    fn close(&self);
}

/// What happens when the transport is gone, and what ends it.
struct CloseState {
    /// The hook of the pool that keeps the connection, if there is one.
    hook: CloseHook,
    driver: Option<AbortHandle>,
    /// Closes the transport from outside of its driver, if that is possible.
    closer: Option<Arc<dyn Close>>,
    /// Boxed, because most connections have none of it.
    extras: Option<Box<CloseExtras>>,
}

/// State that few connections have.
#[derive(Default)]
struct CloseExtras {
    /// Hooks of further pools above the first.
    hooks: Vec<CloseHook>,
    attached: Vec<Box<dyn Any + Send + Sync>>,
    /// Tasks that wait on a detached transport.
    wakers: Vec<Waker>,
    /// How many bytes are written before the one that is left out.
    omitted: usize,
    /// How long the body of the latest request waits for a 100.
    continue_timeout: Duration,
    /// The end of a body that is awaited, with the number of its exchange.
    rest: Option<(u8, Rest)>,
    body_error: Option<RequestBodyError>,
    /// The head of a request of which nothing was written, as hyper has encoded it. It is the latest request's only if
    /// `Activity` says so.
    unwritten: Option<Vec<u8>>,
    timeouts: Option<Box<ExchangeTimeouts>>,
}

impl CloseExtras {
    /// Keeps what the request that ended with the transport still has to read.
    #[cold]
    fn leave_for_request(&mut self) -> Option<Box<Self>> {
        let (body_error, unwritten) = (self.body_error.take(), self.unwritten.take());
        let timeouts = self.timeouts.take();
        (body_error.is_some() || unwritten.is_some() || timeouts.is_some()).then(|| {
            Box::new(Self {
                body_error,
                unwritten,
                timeouts,
                ..Self::default()
            })
        })
    }
}

impl CloseState {
    const NONE: Self = Self {
        hook: CloseHook::NONE,
        driver: None,
        closer: None,
        extras: None,
    };

    fn extras(&mut self) -> &mut CloseExtras {
        self.extras.get_or_insert_default()
    }

    fn add_hook(&mut self, hook: CloseHook) {
        if self.hook.0.is_none() {
            self.hook = hook;
        } else {
            self.extras().hooks.push(hook);
        }
    }

    fn take_hooks(&mut self) -> impl Iterator<Item = CloseHook> + use<> {
        let extras = self
            .extras
            .as_mut()
            .map(|extras| mem::take(&mut extras.hooks));
        iter::once(mem::replace(&mut self.hook, CloseHook::NONE)).chain(extras.unwrap_or_default())
    }

    fn take_wakers(&mut self) -> Vec<Waker> {
        let extras = self
            .extras
            .as_mut()
            .map(|extras| mem::take(&mut extras.wakers));
        extras.unwrap_or_default()
    }
}

// Every connection has one. Checked only in tests, because the sizes of the types of std and tokio may change.
#[cfg(all(
    test,
    target_os = "linux",
    target_pointer_width = "64",
    not(tower_keep_alive_loom)
))]
const _: () = assert!(size_of::<ConnShared>() <= 144 + size_of::<Activity>());

impl ConnShared {
    pub(crate) fn new() -> Self {
        // Not modelled: nothing depends on the order of the numbers.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            reason: AtomicU8::new(0),
            peer: AtomicU8::new(0),
            unfinished: AtomicBool::new(false),
            uploading: AtomicBool::new(false),
            driver_flags: AtomicU16::new(0),
            activity: Activity::new(),
            expectation: Expectation::default(),
            state: AtomicU8::new(0),
            key: OnceLock::new(),
            born: OnceLock::new(),
            kind: OnceLock::new(),
            close_state: Mutex::new(CloseState::NONE),
        }
    }

    #[inline]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    #[inline]
    pub(crate) fn key(&self) -> Option<&Key> {
        self.key.get()
    }

    pub(crate) fn set_key(&self, key: Key) {
        // A second pool above the first may keep the same connection: the first key is kept.
        let _ = self.key.set(key);
    }

    #[inline]
    pub(crate) fn born(&self) -> Option<Moment> {
        self.born.get().copied()
    }

    pub(crate) fn begin(&self, now: Moment) {
        let _ = self.born.set(now);
    }

    pub(crate) fn transport(&self) -> Option<&TransportInfo> {
        match &**self.whole().kind.get()? {
            Kind::Transport(transport) => Some(transport),
            Kind::UseOf(_) => None,
        }
    }

    /// The remote address of the transport, if it is known.
    pub(crate) fn remote_addr(&self) -> Option<SocketAddr> {
        self.transport()?.addresses.as_ref()?.remote
    }

    pub(crate) fn set_transport(&self, transport: TransportInfo) {
        let _ = self.kind.set(Box::new(Kind::Transport(transport)));
    }

    /// Records why the connection ends. The first reason is kept, but a failure replaces `Final`, because a last
    /// exchange may still fail.
    pub(crate) fn set_close_reason(&self, reason: CloseReason) {
        const LAST: u8 = CloseReason::Final as u8 + 1;
        let _ =
            self.reason
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |noted| match noted {
                    0 => Some(reason as u8 + 1),
                    LAST if reason.ends_midway() => Some(reason as u8 + 1),
                    _ => None,
                });
    }

    pub(crate) fn reason(&self) -> Option<CloseReason> {
        match self.reason.load(Ordering::Relaxed) {
            0 => self.connection()?.reason(),
            place => Some(CloseReason::ALL[usize::from(place) - 1]),
        }
    }

    /// The server has closed the connection.
    pub(crate) fn peer_closed(&self) {
        self.peer.fetch_or(PEER_CLOSED, Ordering::Relaxed);
    }

    fn has_peer_closed(&self) -> bool {
        self.peer.load(Ordering::Relaxed) & PEER_CLOSED != 0
    }

    /// The reason of an end without an error, if none was recorded: the server has closed, or else hyper. hyper closes
    /// after the last exchange, and in the middle of an exchange that was given up.
    pub(crate) fn clean_end(&self) -> CloseReason {
        if self.has_peer_closed() {
            CloseReason::Peer
        } else if self.is_unfinished() {
            CloseReason::Abandoned
        } else {
            CloseReason::Final
        }
    }

    /// Whether the connection is known to end: a reason was recorded, the server has closed, or its pool has lost it.
    pub(crate) fn is_ending(&self) -> bool {
        self.reason().is_some() || self.has_peer_closed() || !self.has_no_flags()
    }

    /// Sets whether hyper has still to read a part of the request's body. Called where the body begins and where it
    /// ends.
    pub(crate) fn set_uploading(&self, uploading: bool) {
        if uploading == self.is_uploading() {
            return;
        }
        self.activity.set_upload_waits(false);
        self.uploading.store(uploading, Ordering::Release);
    }

    #[inline]
    pub(crate) fn is_uploading(&self) -> bool {
        self.uploading.load(Ordering::Acquire)
    }

    pub(crate) fn set_finishing(&self, is_finishing: bool) {
        if is_finishing {
            self.driver_flags.fetch_or(FINISHING, Ordering::AcqRel);
        } else {
            self.driver_flags.fetch_and(!FINISHING, Ordering::AcqRel);
        }
    }

    pub(crate) fn is_finishing(&self) -> bool {
        self.driver_flags.load(Ordering::Acquire) & FINISHING != 0
    }

    pub(crate) fn set_orphaned(&self) {
        self.driver_flags.fetch_or(ORPHANED, Ordering::AcqRel);
    }

    pub(crate) fn is_orphaned(&self) -> bool {
        self.driver_flags.load(Ordering::Acquire) & ORPHANED != 0
    }

    /// The driver has nothing to do but to wait.
    #[inline]
    pub(crate) fn has_no_driver_flags(&self) -> bool {
        self.driver_flags.load(Ordering::Acquire) == 0
    }

    /// The rest of a response is being read, for at most `max`: rounded up to a power of two of eighths of a second.
    pub(crate) fn set_reading_rest(&self, max: Duration) {
        let eighths = max.as_millis().div_ceil(125).next_power_of_two();
        let place = (eighths.trailing_zeros() as u16 + 1).min(READING_REST >> READING_REST_SHIFT);
        self.driver_flags
            .fetch_or(place << READING_REST_SHIFT, Ordering::AcqRel);
    }

    /// The rest of the response was read.
    pub(crate) fn has_read_rest(&self) {
        self.driver_flags.fetch_and(!READING_REST, Ordering::AcqRel);
    }

    /// If the connection is being closed or finished: how long it may take from now until it is closed or free.
    /// `goodbye`: how long a transport without an owner may take to close.
    pub(crate) fn time_to_close(&self, goodbye: Duration) -> Option<Duration> {
        if self.is_killed() || self.is_orphaned() {
            return Some(goodbye);
        }
        if self.is_finishing() {
            return Some(FINISH_TIMEOUT + goodbye);
        }
        match (self.driver_flags.load(Ordering::Acquire) & READING_REST) >> READING_REST_SHIFT {
            0 => None,
            place => Some(Duration::from_millis(125 << (place - 1)) + goodbye),
        }
    }

    #[inline]
    pub(crate) fn is_detached(&self) -> bool {
        self.whole().state.load(Ordering::Acquire) & DETACHED != 0
    }

    /// None of the flags is set: the connection is neither killed, detached, poisoned, moved, upgraded nor gone, and no byte
    /// is left out.
    #[inline]
    pub(crate) fn has_no_flags(&self) -> bool {
        self.state.load(Ordering::Acquire) == 0
    }

    pub(crate) fn is_upgraded(&self) -> bool {
        self.state.load(Ordering::Acquire) & UPGRADED != 0
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.state.load(Ordering::Acquire) & KILLED != 0
    }

    /// Excludes the connection from further use: after its present use it ends; without one it ends now.
    pub(crate) fn poison(&self) {
        if let Some(connection) = self.connection() {
            return connection.poison();
        }
        self.state.fetch_or(POISONED, Ordering::AcqRel);
        if !self.activity.is_in_use() {
            self.kill(CloseReason::Poisoned);
        }
    }

    pub(crate) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Wakes `waker` when a detached transport is killed: there is no driver to abort.
    #[cold]
    pub(crate) fn wake_if_killed(&self, waker: &Waker) {
        // Dropped after the lock: it may be the last reference to a task that owns the transport.
        let _moved_on;
        let mut close_state = self.close_state();
        if self.is_killed() {
            drop(close_state);
            waker.wake_by_ref();
            return;
        }
        let wakers = &mut close_state.extras().wakers;
        if !wakers.iter().any(|kept| kept.will_wake(waker)) {
            // Usually a reader and a writer. Wakers of tasks that no longer wait are dropped.
            if wakers.len() == 4 {
                _moved_on = wakers.remove(0);
            }
            wakers.push(waker.clone());
        }
    }

    pub(crate) fn attach(&self, guard: Box<dyn Any + Send + Sync>) {
        let whole = self.whole();
        let mut close_state = whole.close_state();
        if !whole.is_gone() {
            close_state.extras().attached.push(guard);
        }
        // Otherwise it is dropped here, after the lock.
    }

    /// Runs `hook` when the transport is gone; at once if it is gone already.
    pub(crate) fn on_close(&self, hook: CloseHook) {
        if let Err(hook) = self.try_on_close(hook) {
            hook.run(self.reason().unwrap_or(CloseReason::Peer));
        }
    }

    /// The same, but returns the hook if the transport is gone already.
    pub(crate) fn try_on_close(&self, hook: CloseHook) -> Result<(), CloseHook> {
        let mut close_state = self.close_state();
        if self.is_gone() {
            return Err(hook);
        }
        close_state.add_hook(hook);
        Ok(())
    }

    pub(crate) fn set_driver(&self, driver: AbortHandle) {
        let mut close_state = self.close_state();
        if self.is_killed() {
            drop(close_state);
            driver.abort();
        } else {
            close_state.driver = Some(driver);
        }
    }

    /// Ends the transport now, whatever is in progress.
    pub(crate) fn kill(&self, reason: CloseReason) {
        self.set_close_reason(reason);
        if let Some(connection) = self.connection() {
            return connection.kill(reason);
        }
        let (driver, wakers) = {
            let mut close_state = self.close_state();
            self.state.fetch_or(KILLED, Ordering::AcqRel);
            (close_state.driver.take(), close_state.take_wakers())
        };
        if let Some(driver) = driver {
            driver.abort();
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Sets how to close the transport from outside of its driver.
    pub(crate) fn set_closer(&self, closer: Arc<dyn Close>) {
        let mut close_state = self.close_state();
        if !self.is_gone() {
            close_state.closer = Some(closer);
        }
        // Otherwise it is dropped here, after the lock.
    }

    /// The connection is about to be closed from outside, or after its uses, and may not be used again until then.
    pub(crate) fn condemn(&self, reason: CloseReason) {
        self.set_close_reason(reason);
        self.state.fetch_or(POISONED, Ordering::AcqRel);
    }

    /// Whether it can be closed even if its driver is not polled, or gone already.
    pub(crate) fn can_be_closed(&self) -> bool {
        let close_state = self.close_state();
        self.is_gone() || close_state.closer.is_some()
    }

    /// Ends the transport now. A transport that can be closed from outside is closed here, whether or not its driver is
    /// polled, and its permit passes on. Any other ends when the runtime drops the driver.
    pub(crate) fn force(&self) {
        if let Some(connection) = self.connection() {
            return connection.force();
        }
        let closer = self.close_state().closer.clone();
        if let Some(closer) = &closer {
            closer.close();
        }
        self.kill(CloseReason::Abandoned);
        if closer.is_some() {
            self.transport_gone();
        }
    }

    /// Gives up the permit while the transport lives on.
    pub(crate) fn detach(&self) {
        if let Some(connection) = self.connection() {
            return connection.detach();
        }
        let hooks = {
            let mut close_state = self.close_state();
            if self.is_gone() || self.is_detached() {
                return;
            }
            self.state.fetch_or(DETACHED, Ordering::AcqRel);
            close_state.take_hooks()
        };
        for hook in hooks {
            hook.run(CloseReason::Detached);
        }
    }

    /// Gives up the permit, and passes the transport to a new owner.
    pub(crate) fn upgrade(&self) {
        self.state.fetch_or(UPGRADED, Ordering::AcqRel);
        self.detach();
    }

    fn transport_gone(&self) {
        let mut rest = self.set_gone();
        for hook in rest.take_hooks() {
            hook.run(self.reason().unwrap_or(CloseReason::Dropped));
        }
    }

    /// Returns what is left, whose hooks have to be run.
    fn set_gone(&self) -> CloseState {
        let mut close_state = self.close_state();
        self.state.fetch_or(GONE, Ordering::AcqRel);
        let mut rest = mem::replace(&mut *close_state, CloseState::NONE);
        close_state.extras = rest
            .extras
            .as_mut()
            .and_then(|extras| extras.leave_for_request());
        rest
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.state.load(Ordering::Acquire) & GONE != 0
    }

    fn close_state(&self) -> MutexGuard<'_, CloseState> {
        // Nothing that can panic runs under this lock, so it is never poisoned.
        self.close_state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ConnShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnShared")
            .field("id", &self.id)
            .field("reason", &self.reason())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    /// A task whose wakers keep it, and which has the transport.
    struct Task(#[expect(dead_code, reason = "it is here to be dropped")] Option<TransportGuard>);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    /// The server said that this exchange is the last one. Where the connection ends as it was to, that is the reason.
    #[test]
    fn a_last_exchange_that_ends_badly_says_how() {
        let bad = [
            CloseReason::Error,
            CloseReason::Silence,
            CloseReason::RequestTimeout,
            CloseReason::ResponseTimeout,
            CloseReason::Connect,
            CloseReason::ConnectTimeout,
            CloseReason::Abandoned,
            CloseReason::Shutdown,
        ];
        for reason in CloseReason::ALL {
            let shared = ConnShared::new();
            shared.set_close_reason(CloseReason::Final);
            shared.set_close_reason(reason);
            let noted = if bad.contains(&reason) {
                reason
            } else {
                CloseReason::Final
            };
            assert_eq!(shared.reason(), Some(noted), "after {reason:?}");
        }
    }

    #[test]
    fn any_other_first_word_stands() {
        for first in CloseReason::ALL
            .into_iter()
            .filter(|&it| it != CloseReason::Final)
        {
            for second in CloseReason::ALL {
                let shared = ConnShared::new();
                shared.set_close_reason(first);
                shared.set_close_reason(second);
                assert_eq!(shared.reason(), Some(first), "after {second:?}");
            }
        }
    }

    #[test]
    fn a_waker_may_end_the_transport_when_it_is_dropped() {
        let shared = Arc::new(ConnShared::new());
        shared.detach();
        let mut guard = Some(TransportGuard::new(shared.clone()));
        for _ in 0..5 {
            shared.wake_if_killed(&Arc::new(Task(guard.take())).into());
        }
        assert!(shared.is_gone());
    }

    /// Whoever wants the permit of a connection that is ending gives it its time, and closes it from outside after that.
    #[test]
    fn a_connection_that_is_ending_has_the_time_of_whatever_ends_it() {
        let goodbye = Duration::from_secs(1);
        let shared = ConnShared::new();
        assert_eq!(shared.time_to_close(goodbye), None);
        for (reads_on, rounded) in [
            (1, 125),
            (125, 125),
            (126, 250),
            (500, 500),
            (3_000, 4_000),
            // The most that is told.
            (1_000_000_000, 125 << 14),
        ] {
            shared.set_reading_rest(Duration::from_millis(reads_on));
            let time = Duration::from_millis(rounded) + goodbye;
            assert_eq!(shared.time_to_close(goodbye), Some(time), "{reads_on} ms");
            shared.has_read_rest();
            assert_eq!(shared.time_to_close(goodbye), None);
        }
        shared.set_finishing(true);
        assert_eq!(
            shared.time_to_close(goodbye),
            Some(FINISH_TIMEOUT + goodbye)
        );
        shared.set_finishing(false);
        assert!(!shared.is_finishing() && shared.has_no_driver_flags());
        shared.set_orphaned();
        assert_eq!(shared.time_to_close(goodbye), Some(goodbye));
    }
}

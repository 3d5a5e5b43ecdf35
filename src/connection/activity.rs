//! Whether a transport is active.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// A flag that each read and write sets, and that a slow timer clears: no clock is read and no timer is set for a
/// request.
///
/// Silence counts only while a connection is in use and waits for the server: while a write is pending, or while a read
/// is pending, the caller waits for it, and nothing is awaited from the caller. So a caller that reads slowly is not
/// penalised, nor one that leaves received data unread, nor one whose own request body is slow.
#[derive(Debug)]
pub(crate) struct Activity {
    /// `MOVED`, without what was asked for since.
    moved: AtomicU8,
    /// The last bits of the number of the latest exchange, times two, plus one once the head of its response has
    /// arrived. A use has one exchange, unless its owner sends further requests by hand.
    exchange: AtomicU8,
    /// How much of the latest request is written: `UNWRITTEN`, `HEAD_KEPT`, `WRITTEN` or `GIVEN_BACK`.
    request: AtomicU8,
    caller_waits: AtomicBool,
    read_waits: AtomicBool,
    write_waits: AtomicBool,
    /// hyper waits for the next frame of the request's body.
    upload_waits: AtomicBool,
    /// The number of the latest use; with `OVER` once that has ended.
    uses: AtomicU64,
    /// The longest silence, in milliseconds; `NEVER` without a limit.
    limit: AtomicU32,
    /// The same for the present use only; `NOT_SET` if it has no limit of its own.
    limit_now: AtomicU32,
}

// Every connection has one, in its `ConnShared`.
#[cfg(all(test, target_pointer_width = "64"))]
const _: () = assert!(size_of::<Activity>() <= 24);

/// The value of a limit that does not exist.
const NEVER: u32 = u32::MAX;
const NOT_SET: u32 = u32::MAX - 1;
/// Nothing of the request was written, as far as is known.
const UNWRITTEN: u8 = 0;
const HEAD_KEPT: u8 = 1;
const WRITTEN: u8 = 2;
/// The connection gave the request back, and the request is sent on another one.
const GIVEN_BACK: u8 = 3;
/// Added to the number of an exchange.
const HEAD_SEEN: u8 = 1;
/// Added to the number of a use, which never reaches this bit.
const OVER: u64 = 1 << 63;

/// In `moved`, for each of the two that ask: one store tells both.
const MOVED: u8 = FOR_DRIVER | FOR_LOOK;
const FOR_DRIVER: u8 = 1;
const FOR_LOOK: u8 = 2;

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            moved: AtomicU8::new(MOVED),
            exchange: AtomicU8::new(0),
            request: AtomicU8::new(UNWRITTEN),
            caller_waits: AtomicBool::new(true),
            read_waits: AtomicBool::new(false),
            write_waits: AtomicBool::new(false),
            upload_waits: AtomicBool::new(false),
            uses: AtomicU64::new(0),
            limit: AtomicU32::new(NEVER),
            limit_now: AtomicU32::new(NOT_SET),
        }
    }

    pub(crate) fn tighten(&self, max: Duration) {
        self.limit.fetch_min(in_millis(max), Ordering::Relaxed);
    }

    /// Replaces the limit.
    pub(crate) fn set_limit(&self, max: Duration) {
        self.limit.store(in_millis(max), Ordering::Relaxed);
    }

    /// Applies the limit of `other`, if that is shorter.
    pub(crate) fn tighten_as(&self, other: &Self) {
        let max = other.limit.load(Ordering::Relaxed);
        self.limit.fetch_min(max, Ordering::Relaxed);
    }

    /// Whether the present use has a limit of its own.
    pub(crate) fn is_this_use_limited(&self) -> bool {
        self.limit_now.load(Ordering::Relaxed) != NOT_SET
    }

    /// The next use is the one after `uses` others.
    pub(crate) fn follow(&self, uses: u64) {
        self.uses.store(uses | OVER, Ordering::Relaxed);
    }

    /// Sets the limit for the present use only; it replaces the other one, whether it is longer or shorter.
    pub(crate) fn limit_this_use(&self, max: Duration) {
        self.limit_now.store(in_millis(max), Ordering::Relaxed);
    }

    /// The use with this number begins. Silence before it does not count.
    #[inline]
    pub(crate) fn begin_use(&self, number: u64) {
        self.moved.store(MOVED, Ordering::Relaxed);
        self.limit_now.store(NOT_SET, Ordering::Relaxed);
        self.begin_exchange();
        self.caller_waits.store(true, Ordering::Relaxed);
        self.uses.store(number, Ordering::Relaxed);
    }

    /// How many uses have begun.
    #[inline]
    pub(crate) fn uses(&self) -> u64 {
        self.uses.load(Ordering::Relaxed) & !OVER
    }

    /// A request is sent in the present use. The first request of a use was counted when the use began.
    #[inline]
    pub(crate) fn request(&self) {
        self.request.store(UNWRITTEN, Ordering::Relaxed);
        if self.exchange_without_head().is_none() {
            self.begin_exchange();
        }
    }

    /// Called, like the following, by the connection's owner: never concurrently.
    #[inline]
    fn begin_exchange(&self) {
        let latest = self.exchange.load(Ordering::Relaxed);
        self.exchange
            .store((latest | HEAD_SEEN).wrapping_add(1), Ordering::Relaxed);
    }

    /// The transport may have written a part of the request.
    #[inline]
    pub(crate) fn took(&self) {
        self.request.store(WRITTEN, Ordering::Relaxed);
    }

    /// Whether the transport may have written a part of the latest request.
    #[inline]
    pub(crate) fn has_written(&self) -> bool {
        self.request.load(Ordering::Relaxed) == WRITTEN
    }

    /// The first write of the request wrote nothing, and its head was kept.
    pub(crate) fn keeps_head(&self) {
        self.request.store(HEAD_KEPT, Ordering::Relaxed);
    }

    /// Whether the head that was kept is the latest request's, and nothing was written since.
    pub(crate) fn has_kept_head(&self) -> bool {
        self.request.load(Ordering::Relaxed) == HEAD_KEPT
    }

    /// The connection gave the latest request back, and the exchange goes on elsewhere.
    #[cold]
    pub(crate) fn give_back(&self) {
        self.request.store(GIVEN_BACK, Ordering::Relaxed);
    }

    /// Whether the connection gave the latest request back, and the exchange goes on elsewhere.
    pub(crate) fn has_given_back(&self) -> bool {
        self.request.load(Ordering::Relaxed) == GIVEN_BACK
    }

    /// The head of the response has arrived.
    #[inline]
    pub(crate) fn answered(&self) {
        let latest = self.exchange.load(Ordering::Relaxed);
        self.exchange.store(latest | HEAD_SEEN, Ordering::Relaxed);
    }

    /// Identifies the present exchange, if the head of its response has not arrived.
    #[inline]
    pub(crate) fn exchange_without_head(&self) -> Option<u8> {
        let latest = self.exchange.load(Ordering::Relaxed);
        (latest & HEAD_SEEN == 0).then_some(latest)
    }

    /// Called by the connection's owner, like `begin_use`: never concurrently.
    #[inline]
    pub(crate) fn end_use(&self) {
        let over = self.uses.load(Ordering::Relaxed) | OVER;
        self.uses.store(over, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn is_in_use(&self) -> bool {
        self.uses.load(Ordering::Relaxed) & OVER == 0
    }

    /// Whether an exchange is in progress, and the head of its response has arrived.
    pub(crate) fn is_answering(&self) -> bool {
        self.is_in_use() && self.exchange_without_head().is_none()
    }

    /// Whether the use with this number is in progress.
    #[inline]
    pub(crate) fn is_use(&self, number: u64) -> bool {
        self.uses.load(Ordering::Relaxed) == number
    }

    /// The limit that applies at present.
    pub(crate) fn limit(&self) -> Option<Duration> {
        let limit = self.limit_in_millis()?;
        Some(Duration::from_millis(limit.into()))
    }

    #[inline]
    pub(crate) fn limit_in_millis(&self) -> Option<u32> {
        let limit = match self.limit_now.load(Ordering::Relaxed) {
            NOT_SET => self.limit.load(Ordering::Relaxed),
            limit => limit,
        };
        (limit != NEVER).then_some(limit)
    }

    /// Whether, since the last call, the connection has always waited for the server, and nothing was read or written.
    pub(crate) fn is_silent(&self) -> bool {
        self.is_silent_for(FOR_DRIVER)
    }

    /// The same, for a look from outside of the driver, whose own measure it leaves alone.
    pub(crate) fn is_silent_from_outside(&self) -> bool {
        self.is_in_use() && self.is_silent_for(FOR_LOOK)
    }

    fn is_silent_for(&self, asker: u8) -> bool {
        let moved = self.moved.fetch_and(!asker, Ordering::Relaxed) & asker != 0;
        // Until the head of the response arrives, the server may be waiting for the upload. After that, the server has
        // to continue the response, whether or not the upload ever ends.
        let owes_upload =
            || self.upload_waits.load(Ordering::Relaxed) && self.exchange_without_head().is_some();
        let answer_waits = || {
            self.read_waits.load(Ordering::Relaxed)
                && self.caller_waits.load(Ordering::Relaxed)
                && !owes_upload()
        };
        let waits = self.write_waits.load(Ordering::Relaxed) || answer_waits();
        waits && !moved
    }

    /// Whether the caller waits for the server: for the head of the response, or for more of its body.
    #[cfg(feature = "http2")]
    pub(crate) fn is_server_awaited(&self) -> bool {
        self.exchange_without_head().is_some() || self.caller_waits.load(Ordering::Relaxed)
    }

    /// Whether the exchange waits for its caller: to go on with the body of the request, or to read that of the response.
    pub(crate) fn is_caller_awaited(&self) -> bool {
        match self.exchange_without_head() {
            Some(_) => self.upload_waits.load(Ordering::Relaxed),
            None => !self.caller_waits.load(Ordering::Relaxed),
        }
    }

    /// Sets whether the caller waits for more of the response. Silence before that does not count.
    #[inline]
    pub(crate) fn set_caller_waits(&self, waits: bool) {
        if waits && !self.caller_waits.load(Ordering::Relaxed) {
            self.moved.store(MOVED, Ordering::Relaxed);
        }
        self.caller_waits.store(waits, Ordering::Relaxed);
    }

    /// Sets whether hyper waits for the caller to continue the request's body. Silence before it continues does not
    /// count.
    pub(crate) fn set_upload_waits(&self, waits: bool) {
        if self.upload_waits.load(Ordering::Relaxed) != waits {
            self.upload_waits.store(waits, Ordering::Relaxed);
            self.moved_unless(waits);
        }
    }

    #[inline]
    pub(crate) fn read(&self, waits: bool) {
        self.read_waits.store(waits, Ordering::Relaxed);
        self.moved_unless(waits);
    }

    /// The transport has read so many bytes; none at the end of the stream.
    #[inline]
    pub(crate) fn received(&self, bytes: usize) {
        self.read_waits.store(false, Ordering::Relaxed);
        self.moved_unless(bytes == 0);
    }

    /// The transport has written so many bytes of the request.
    #[inline]
    pub(crate) fn wrote(&self, bytes: usize) {
        if bytes > 0 {
            self.took();
        }
        self.written(false);
    }

    /// Whether the transport has no room for a write.
    pub(crate) fn write_waits(&self) -> bool {
        self.write_waits.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn written(&self, waits: bool) {
        self.write_waits.store(waits, Ordering::Relaxed);
        self.moved_unless(waits);
    }

    /// Something has moved of which nothing else is known here.
    #[cfg(feature = "http2")]
    pub(crate) fn moved(&self) {
        self.moved.store(MOVED, Ordering::Relaxed);
    }

    #[inline]
    fn moved_unless(&self, waits: bool) {
        if !waits {
            self.moved.store(MOVED, Ordering::Relaxed);
        }
    }
}

/// Rounded up, so that no limit is reached early. A time of more than 49 days means no limit.
fn in_millis(time: Duration) -> u32 {
    let part = u64::from(time.subsec_nanos()).div_ceil(1_000_000);
    let whole = time.as_secs().saturating_mul(1_000);
    match u32::try_from(whole.saturating_add(part)) {
        Ok(millis) if millis < NOT_SET => millis,
        _ => NEVER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_limit_for_one_use_wins_and_is_gone_after_it() {
        let activity = Activity::new();
        assert_eq!(activity.limit(), None);
        activity.tighten(8 * SECOND);
        activity.tighten(9 * SECOND);
        for own in [SECOND, 60 * SECOND] {
            activity.limit_this_use(own);
            assert_eq!(activity.limit(), Some(own));
            activity.begin_use(1);
            assert_eq!(activity.limit(), Some(8 * SECOND));
        }
        activity.limit_this_use(Duration::MAX);
        assert_eq!(activity.limit(), None);
    }

    #[test]
    fn an_exchange_has_its_head_once_it_is_answered_however_often_that_is_told() {
        let activity = Activity::new();
        activity.begin_use(1);
        assert!(activity.exchange_without_head().is_some());
        for _ in 0..2 {
            activity.answered();
            assert_eq!(activity.exchange_without_head(), None);
        }
    }

    #[test]
    fn an_exchange_waits_for_its_caller_if_its_response_is_not_read() {
        let activity = Activity::new();
        activity.begin_use(1);
        assert!(!activity.is_caller_awaited());
        activity.answered();
        assert!(!activity.is_caller_awaited(), "the caller reads");
        activity.set_caller_waits(false);
        assert!(activity.is_caller_awaited());
    }

    #[test]
    fn only_waiting_for_the_other_end_is_silence() {
        let activity = Activity::new();
        activity.begin_use(1);
        activity.written(false);
        activity.read(true);
        assert!(!activity.is_silent(), "it has just begun");
        assert!(activity.is_silent());
        activity.read(false);
        activity.read(true);
        assert!(!activity.is_silent(), "something came");
        activity.set_caller_waits(false);
        assert!(!activity.is_silent(), "nobody wants extras");
        activity.set_caller_waits(true);
        assert!(!activity.is_silent(), "somebody has just asked for extras");
        assert!(activity.is_silent());
        activity.set_upload_waits(true);
        assert!(!activity.is_silent(), "the caller is slow with its upload");
        activity.set_upload_waits(false);
        assert!(!activity.is_silent(), "the upload has just gone on");
        activity.set_upload_waits(false);
        assert!(activity.is_silent(), "the server does not answer");
        activity.set_caller_waits(false);
        activity.set_upload_waits(true);
        activity.written(true);
        assert!(activity.is_silent(), "the upload does not move");
        activity.written(false);
        activity.set_caller_waits(true);
        activity.answered();
        activity.set_upload_waits(false);
        activity.set_upload_waits(true);
        activity.is_silent();
        assert!(
            activity.is_silent(),
            "the response has begun and does not go on"
        );
    }

    #[test]
    fn a_limit_is_never_kept_too_early() {
        assert_eq!(in_millis(Duration::from_micros(1500)), 2);
        assert_eq!(in_millis(Duration::from_millis(3)), 3);
        for too_long in [u64::from(NOT_SET), u64::MAX] {
            assert_eq!(in_millis(Duration::from_millis(too_long)), NEVER);
        }
        assert_eq!(in_millis(Duration::MAX), NEVER);
    }

    #[test]
    fn each_request_of_a_use_awaits_a_head_of_its_own() {
        let activity = Activity::new();
        let mut exchanges = std::collections::BTreeSet::new();
        for number in 1..=3 {
            activity.begin_use(number);
            for _ in 0..3 {
                activity.request();
                let exchange = activity.exchange_without_head().unwrap();
                assert!(exchanges.insert(exchange));
                activity.answered();
                assert_eq!(activity.exchange_without_head(), None);
            }
        }
        activity.begin_use(4);
        activity.begin_use(5);
        assert!(exchanges.insert(activity.exchange_without_head().unwrap()));
    }

    #[test]
    fn a_use_is_under_way_until_it_is_over() {
        let activity = Activity::new();
        activity.begin_use(7);
        assert!(activity.is_in_use() && activity.is_use(7));
        activity.end_use();
        assert!(!activity.is_in_use() && !activity.is_use(7));
        assert_eq!(activity.uses(), 7);
        activity.begin_use(8);
        assert!(activity.is_use(8));
    }
}

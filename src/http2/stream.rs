//! The state that a use of a connection and its exchange share.

use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use h2::{Reason, SendStream};
use http::request;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::connection::close_reason::CloseReason;
use crate::connection::shared::ConnShared;
use crate::http2::deadlines::Exchange;
use crate::http2::piece::{Piece, Progress};
use crate::http2::shared::Http2Shared;
use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// One for each use, for all the exchanges on it, of which there is one at a time.
#[derive(Debug)]
pub(super) struct StreamShared {
    connection: Arc<Http2Shared>,
    /// The use's own.
    conn: Arc<ConnShared>,
    /// `REQUEST` and `RESPONSE`, while they are in progress; `CUT`, `FAILED`, `LARGE` and `LARGE_LAST`.
    state: AtomicU8,
    /// How often the connection had written when the request was given to `h2`.
    writes: AtomicU64,
    /// How far the request's body is written.
    progress: Arc<Progress>,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    /// The id of the present exchange's stream, or of the latest one.
    id: u32,
    /// Resets the stream, while anything is in progress.
    stream: Option<SendStream<Piece>>,
    /// The caller's head, until the response arrives: for the next connection if this one refuses the request.
    head: Option<request::Parts>,
    /// Sends the rest of the request's body, if the response came first.
    task: Option<AbortHandle>,
    /// The task that waits until nothing is in progress.
    waker: Option<Waker>,
    /// Since when there is no activity while the server is awaited.
    silent_since: Option<Instant>,
}

/// The request's body was not sent to its end.
const REQUEST: u8 = 1;
/// The response was not read to its end.
const RESPONSE: u8 = 2;
const BUSY: u8 = REQUEST | RESPONSE;
/// The request's body was cut off.
const CUT: u8 = 4;
/// A time limit has ended the exchange, and the use with it.
const FAILED: u8 = 8;
/// The fields of the response may be larger than allowed.
const LARGE: u8 = 16;
/// The same for those with which the stream ends.
const LARGE_LAST: u8 = 32;

/// Which exchange is meant, where another one may be in progress by now.
#[derive(Clone, Copy)]
enum Which {
    /// Whichever is in progress.
    Present,
    /// The one on the stream with this id.
    Stream(u32),
    /// The one of the use with this number, which has reached a time limit for this reason.
    Late(u64, CloseReason),
}

impl Parts {
    /// The stream, if this is its id and it is not over.
    fn stream_of(&mut self, id: u32) -> Option<&mut SendStream<Piece>> {
        self.stream.as_mut().filter(|_| self.id == id)
    }
}

impl StreamShared {
    pub(super) fn new(connection: Arc<Http2Shared>, conn: Arc<ConnShared>) -> Arc<Self> {
        let this = Arc::new(Self {
            connection,
            conn,
            state: AtomicU8::new(0),
            writes: AtomicU64::new(0),
            progress: Arc::default(),
            parts: Mutex::new(Parts::default()),
        });
        this.connection.add(&this);
        this
    }

    #[inline]
    pub(super) fn connection(&self) -> &Arc<Http2Shared> {
        &self.connection
    }

    #[inline]
    pub(super) fn conn(&self) -> &Arc<ConnShared> {
        &self.conn
    }

    #[inline]
    pub(super) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// The request is about to be given to `h2`, with or without a body.
    #[inline]
    pub(super) fn begin(&self, has_body: bool) {
        let activity = self.conn.activity();
        activity.request();
        // What the exchange before left: an upload that was cut.
        activity.set_upload_waits(false);
        activity.written(false);
        // The server is awaited, and its bytes are not read here.
        activity.read(true);
        let under_way = if has_body { BUSY } else { RESPONSE };
        let writes = self.connection.writes();
        self.writes.store(writes, Ordering::Relaxed);
        self.state.store(under_way, Ordering::Release);
        self.connection.stream_begins(activity.limit_in_millis());
    }

    /// The request was given to `h2` as the stream with this id; this was its head.
    #[inline]
    pub(super) fn begun(
        self: &Arc<Self>,
        id: u32,
        stream: SendStream<Piece>,
        head: request::Parts,
    ) {
        self.conn.set_stream(id);
        {
            let mut parts = self.parts();
            parts.id = id;
            parts.stream = Some(stream);
            // Drops nothing under the lock: the head of the exchange before was taken when that was answered or given up.
            parts.head = Some(head);
            parts.silent_since = None;
        }
        if self.conn.is_timed() {
            self.limit();
        }
    }

    #[cold]
    fn limit(self: &Arc<Self>) {
        let response = match self.has(REQUEST) {
            true => None,
            false => self.conn.response_deadline(),
        };
        let deadlines = [self.conn.request_deadline(), response];
        for at in deadlines.into_iter().flatten() {
            self.connection.add_deadline(at, self);
        }
    }

    /// The caller's head, unless the exchange was given up. To be dropped where no lock is held: it has the caller's
    /// extensions.
    #[inline]
    pub(super) fn take_head(&self) -> Option<request::Parts> {
        self.parts().head.take()
    }

    /// Whether anything was written since the request was given to `h2`: it may have been the request.
    pub(super) fn has_written(&self) -> bool {
        self.writes.load(Ordering::Relaxed) != self.connection.writes()
    }

    /// Calls `f` with the stream with this id, unless that is over: the use may have its next exchange.
    pub(super) fn with_stream<R>(
        &self,
        id: u32,
        f: impl FnOnce(&mut SendStream<Piece>) -> R,
    ) -> Option<R> {
        self.parts().stream_of(id).map(f)
    }

    /// The id of the stream of the exchange in progress.
    pub(super) fn id(&self) -> Option<u32> {
        let parts = self.parts();
        parts.stream.as_ref().map(|_| parts.id)
    }

    #[inline]
    fn has(&self, parts: u8) -> bool {
        self.state.load(Ordering::Acquire) & parts != 0
    }

    /// `h2` has taken all of the request's body on this stream, or no more of it is needed. Nothing, if the exchange was
    /// given up.
    pub(super) fn end_request(self: &Arc<Self>, id: u32, is_all: bool) {
        let mut parts = self.parts();
        if parts.stream_of(id).is_none() {
            return;
        }
        if !is_all {
            self.state.fetch_or(CUT, Ordering::AcqRel);
        }
        // Before the end: the response may be over, and this use may have its next exchange right after.
        let sent = (is_all && self.conn.is_timed()).then(|| Exchange::of(self));
        self.end_with(parts, REQUEST);
        if let Some(exchange) = sent {
            self.connection.add_sending(exchange);
        }
    }

    /// Whether the server has responded before it had the whole request.
    pub(super) fn is_cut(&self) -> bool {
        self.has(REQUEST | CUT)
    }

    /// Notes it if the stream with this id is in progress; whether it is.
    #[cold]
    pub(super) fn set_large_fields(&self, id: u32, is_last: bool) -> bool {
        let large = if is_last { LARGE | LARGE_LAST } else { LARGE };
        let mut parts = self.parts();
        // Under the lock, under which the exchange ends: the flag is not the next one's.
        let is_it = parts.stream_of(id).is_some();
        if is_it {
            self.state.fetch_or(large, Ordering::AcqRel);
        }
        is_it
    }

    /// Whether the fields of the response may be larger than allowed: whether they are, only `h2` knows.
    pub(super) fn has_large_fields(&self) -> bool {
        self.has(LARGE)
    }

    /// The same for the trailers, once the head was read.
    pub(super) fn has_large_trailers(&self) -> bool {
        self.has(LARGE_LAST)
    }

    /// The response was read to its end.
    #[inline]
    pub(super) fn end_response(&self) {
        self.end(RESPONSE);
    }

    #[inline]
    fn end(&self, parts: u8) {
        // Before the use becomes idle: the parts of the next exchange are not this one's.
        self.end_with(self.parts(), parts);
    }

    #[inline]
    fn end_with(&self, kept: MutexGuard<'_, Parts>, parts: u8) {
        let (stream, waker) = {
            let mut kept = kept;
            let before = self.state.fetch_and(!parts, Ordering::AcqRel);
            if before & BUSY == 0 || before & BUSY & !parts != 0 {
                return;
            }
            (kept.stream.take(), kept.waker.take())
        };
        self.connection.stream_is_over();
        drop(stream);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The caller does not wait any more for the exchange on this stream. If it waited for the server, the server may be gone.
    #[cold]
    pub(super) fn cancel(&self, id: u32) {
        self.reset(self.conn.activity().is_server_awaited(), Which::Stream(id));
    }

    /// The exchange on this stream has failed, and it is known why.
    #[cold]
    pub(super) fn fails(&self, id: u32) {
        self.reset(false, Which::Stream(id));
    }

    /// The use is dropped, with what is in progress.
    #[cold]
    pub(super) fn close(&self) {
        self.reset(self.conn.activity().is_server_awaited(), Which::Present);
    }

    /// The owner of the use gives up what is in progress.
    #[cold]
    pub(super) fn give_up(&self) {
        self.reset(false, Which::Present);
    }

    /// Resets the stream, if that exchange is in progress; whether it was. `doubts`: if the response is, the server may be
    /// gone.
    #[cold]
    fn reset(&self, doubts: bool, which: Which) -> bool {
        if !self.is_busy() {
            return false;
        }
        let (before, parts) = {
            // While the lock is held, an exchange in progress does not end, so none begins.
            let mut kept = self.parts();
            if !self.is_busy() {
                return false;
            }
            match which {
                Which::Present => {}
                Which::Stream(id) => {
                    if kept.stream_of(id).is_none() {
                        return false;
                    }
                }
                Which::Late(number, reason) => {
                    // Read after the state: the number of a use is set before its exchange is in progress.
                    if !self.conn.activity().is_use(number) {
                        return false;
                    }
                    self.conn.set_close_reason(reason);
                    self.state.fetch_or(FAILED, Ordering::AcqRel);
                }
            }
            let before = self.state.fetch_and(!BUSY, Ordering::AcqRel);
            (before, std::mem::take(&mut *kept))
        };
        let Parts {
            id: _,
            stream,
            head: _head,
            task,
            waker,
            silent_since: _,
        } = parts;
        // Before the use is over: its place is not given to anybody else.
        if doubts && before & RESPONSE != 0 {
            self.connection.doubt();
        }
        self.connection.stream_is_over();
        if let Some(mut stream) = stream {
            stream.send_reset(Reason::CANCEL);
        }
        if let Some(task) = task {
            task.abort();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// The exchange in this use has reached a time limit: it ends, and the use with it. Nothing, if it has ended meanwhile: the
    /// use may have its next exchange.
    #[cold]
    pub(super) fn fail(&self, number: u64, reason: CloseReason) {
        if self.reset(true, Which::Late(number, reason)) {
            // Its caller may not be polled for long, and keeps no place by that.
            drop(self.conn.end_use(reason));
        }
    }

    /// Why the use has ended, if it has.
    #[inline]
    pub(super) fn failure(&self) -> Option<CloseReason> {
        match self.has(FAILED) {
            true => self.conn.reason(),
            false => None,
        }
    }

    /// This task sends the rest of the request's body.
    #[cold]
    pub(super) fn goes_on(&self, task: AbortHandle) {
        let mut parts = self.parts();
        if self.has(REQUEST) {
            parts.task = Some(task);
        } else {
            drop(parts);
            task.abort();
        }
    }

    /// Since when the stream is silent, if it is; `begun` is used if the silence is new.
    pub(super) fn silent_since(&self, is_silent: bool, begun: Instant) -> Option<Instant> {
        let since = &mut self.parts().silent_since;
        match is_silent {
            true => Some(*since.get_or_insert(begun)),
            false => {
                *since = None;
                None
            }
        }
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        // Nothing that can panic runs under this lock, so it is never poisoned.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(super) fn is_busy(&self) -> bool {
        self.has(BUSY)
    }

    /// Ready when nothing is in progress.
    #[cold]
    pub(super) fn poll_idle(&self, cx: &Context<'_>) -> Poll<()> {
        let _before = self.parts().waker.replace(cx.waker().clone());
        // Checked after the waker is stored, because whoever ends the last part takes the waker after that.
        match self.is_busy() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// The driver found an exchange late, which ends before the driver ends it, and the use has its next exchange.
    #[test]
    fn a_limit_that_comes_too_late_does_not_end_the_next_exchange() {
        let stream = stream();
        let activity = stream.conn().activity();
        for (number, ends_first, is_hit) in [(1, true, false), (3, false, true)] {
            activity.begin_use(number);
            stream.begin(false);
            if ends_first {
                stream.end_response();
                assert!(!stream.is_busy());
                stream.fail(number, CloseReason::Silence);
                assert_eq!(stream.failure(), None, "it was in time");
                activity.begin_use(number + 1);
                stream.begin(false);
            }
            stream.fail(number, CloseReason::Silence);
            assert_eq!(stream.is_busy(), !is_hit);
            let failure = is_hit.then_some(CloseReason::Silence);
            assert_eq!(stream.failure(), failure);
            stream.give_up();
        }
    }

    /// A future, a body, an upload or a frame may be one of an exchange that is over, in a use that has its next one.
    #[tokio::test]
    async fn whatever_belongs_to_one_exchange_leaves_the_next_one_alone() {
        let (here, _there) = tokio::io::duplex(1 << 16);
        let handshake = h2::client::Builder::new().handshake::<_, Piece>(here);
        let (mut sender, _connection) = handshake.await.unwrap();
        let stream = stream();
        let mut begin = || {
            stream.begin(true);
            let sent = sender.send_request(http::Request::new(()), false);
            let (_response, upload) = sent.unwrap();
            let id = upload.stream_id().as_u32();
            let (head, ()) = http::Request::new(()).into_parts();
            stream.begun(id, upload, head);
            id
        };
        let over = begin();
        assert!(stream.set_large_fields(over, false));
        assert!(stream.has_large_fields());
        stream.fails(over);
        assert!(!stream.is_busy());
        let next = begin();
        assert!(!stream.set_large_fields(over, true));
        assert!(!stream.has_large_fields() && !stream.has_large_trailers());
        stream.cancel(over);
        stream.fails(over);
        stream.end_request(over, true);
        assert_eq!(stream.with_stream(over, |_| ()), None);
        assert_eq!(stream.id(), Some(next));
        stream.end_response();
        assert!(stream.is_busy(), "the next request is not sent yet");
        stream.cancel(next);
        assert!(!stream.is_busy());
        assert_eq!(stream.id(), None);
    }

    fn stream() -> Arc<StreamShared> {
        let conn = Arc::new(ConnShared::new());
        let connection = Http2Shared::new(conn.clone(), 100, 100, 0);
        StreamShared::new(Arc::new(connection), conn)
    }

    /// Lets `act` run until it ends or has to wait for the parts of the exchange, and looks at the stream then.
    fn while_parts_are_held(
        stream: &Arc<StreamShared>,
        act: impl FnOnce(&StreamShared) + Send + 'static,
        look: impl FnOnce(),
    ) {
        let held = stream.parts();
        let (ends, ended) = mpsc::channel();
        let its = stream.clone();
        let acting = thread::spawn(move || {
            act(&its);
            ends.send(()).expect("it is waited for");
        });
        let waits = ended.recv_timeout(Duration::from_millis(50));
        assert_eq!(waits, Err(mpsc::RecvTimeoutError::Timeout));
        look();
        drop(held);
        acting.join().expect("it does not panic");
    }

    /// Otherwise the next exchange could begin, and whoever ends this one would take the parts of that.
    #[test]
    fn an_exchange_is_in_progress_until_its_parts_are_taken() {
        for end in [StreamShared::end_response, StreamShared::give_up] {
            let stream = stream();
            stream.begin(false);
            while_parts_are_held(&stream, end, || assert!(stream.is_busy()));
            assert!(!stream.is_busy());
        }
    }

    #[test]
    fn an_exchange_that_is_over_ends_no_other_one() {
        let stream = stream();
        stream.connection.stream_begins(None);
        stream.begin(true);
        stream.end_response();
        stream.end_response();
        assert!(
            stream.connection.has_several_streams(),
            "half of it is left"
        );
        stream.end(REQUEST);
        for end in [StreamShared::end_response, StreamShared::give_up] {
            end(&stream);
            assert!(stream.connection.has_streams(), "the other one");
        }
    }

    #[tokio::test]
    async fn an_upload_that_has_ended_meanwhile_is_not_kept_for_the_next_exchange() {
        let stream = stream();
        stream.begin(true);
        let upload = tokio::spawn(std::future::pending::<()>());
        let task = upload.abort_handle();
        while_parts_are_held(
            &stream,
            move |it| it.goes_on(task),
            // As `end` does under the lock.
            || {
                stream.state.fetch_and(!REQUEST, Ordering::AcqRel);
            },
        );
        assert!(stream.parts().task.is_none());
        assert!(upload.await.unwrap_err().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn an_exchange_that_is_given_up_ends_its_upload() {
        let stream = stream();
        stream.begin(true);
        let upload = tokio::spawn(std::future::pending::<()>());
        stream.goes_on(upload.abort_handle());
        stream.give_up();
        assert!(!stream.is_busy());
        let ended = tokio::time::timeout(Duration::from_secs(1), upload).await;
        assert!(ended.expect("it is ended").unwrap_err().is_cancelled());
    }
}

//! What a use of a connection and its exchange know of one another.

use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::task::AbortHandle;

use crate::connection::shared::ConnShared;
use crate::http2::shared::Http2Shared;
use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// One a use, for all the exchanges on it, of which there is one at a time.
#[derive(Debug)]
pub(super) struct StreamShared {
    connection: Arc<Http2Shared>,
    /// The use's own.
    conn: Arc<ConnShared>,
    /// `REQUEST` and `RESPONSE`: what is still under way.
    state: AtomicU8,
    /// How often something had been written on the connection when the request was given to `h2`.
    writes: AtomicU64,
    late: Mutex<Late>,
}

/// Of a request whose body goes on when its response is here.
#[derive(Debug, Default)]
struct Late {
    /// Sends the body.
    task: Option<AbortHandle>,
    /// Who waits until nothing is under way.
    waker: Option<Waker>,
}

/// The body of the request has not been sent to its end.
const REQUEST: u8 = 1;
/// The response has not been read to its end.
const RESPONSE: u8 = 2;

impl StreamShared {
    pub(super) fn new(connection: Arc<Http2Shared>, conn: Arc<ConnShared>) -> Self {
        Self {
            connection,
            conn,
            state: AtomicU8::new(0),
            writes: AtomicU64::new(0),
            late: Mutex::new(Late::default()),
        }
    }

    #[inline]
    pub(super) fn connection(&self) -> &Arc<Http2Shared> {
        &self.connection
    }

    #[inline]
    pub(super) fn conn(&self) -> &Arc<ConnShared> {
        &self.conn
    }

    /// A request is given to `h2`, with a body or without.
    #[inline]
    pub(super) fn begin(&self, has_body: bool) {
        let under_way = if has_body {
            REQUEST | RESPONSE
        } else {
            RESPONSE
        };
        self.state.store(under_way, Ordering::Relaxed);
        let writes = self.connection.writes();
        self.writes.store(writes, Ordering::Relaxed);
        self.conn.activity().request();
    }

    /// Whether something was written since then: it may have been the request.
    pub(super) fn has_written(&self) -> bool {
        self.writes.load(Ordering::Relaxed) != self.connection.writes()
    }

    /// All of the request's body is sent, or no more of it is wanted.
    pub(super) fn end_request(&self) {
        self.end(REQUEST);
    }

    /// The response has been read to its end.
    #[inline]
    pub(super) fn end_response(&self) {
        self.end(RESPONSE);
    }

    /// Nothing more is sent or read: whoever still sends or reads ends now.
    #[cold]
    pub(super) fn give_up(&self) {
        let task = self.late().task.take();
        if let Some(task) = task {
            task.abort();
        }
        self.end(REQUEST | RESPONSE);
    }

    #[inline]
    fn end(&self, parts: u8) {
        let before = self.state.fetch_and(!parts, Ordering::AcqRel);
        if before & REQUEST != 0 && before & !parts == 0 {
            self.wake();
        }
    }

    /// Only where a body was sent: without one, nobody waits for more than the response that he reads.
    #[cold]
    fn wake(&self) {
        let waker = self.late().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The body of the request goes on in this task.
    #[cold]
    pub(super) fn goes_on(&self, task: AbortHandle) {
        self.late().task = Some(task);
    }

    fn late(&self) -> MutexGuard<'_, Late> {
        // Nothing that can panic runs under this lock.
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(super) fn is_busy(&self) -> bool {
        self.state.load(Ordering::Acquire) != 0
    }

    /// Ready when nothing is under way.
    #[cold]
    pub(super) fn poll_idle(&self, cx: &Context<'_>) -> Poll<()> {
        let _before = self.late().waker.replace(cx.waker().clone());
        // After it is left there: who ends the last part looks for it after that.
        match self.is_busy() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }
}

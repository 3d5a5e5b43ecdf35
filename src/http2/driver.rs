//! The task that has the transport.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::Connection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

use crate::connection::close_reason::CloseReason;
use crate::http2::shared::Http2Shared;
use crate::http2::wire::Wire;

/// Runs a connection until it has closed, or until it is aborted; and for a second at the most once nobody has the connection
/// any more. Holds the transport and nothing of the pool; when it is dropped, the transport goes and its permit passes on.
pub(super) struct Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    connection: Connection<Wire<IO>, Bytes>,
    shared: Arc<Http2Shared>,
    goodbye: Option<Pin<Box<Sleep>>>,
    is_polled: bool,
}

/// How long a transport may take to shut down, and keep its permit.
const GOODBYE: Duration = Duration::from_secs(1);

impl<IO> Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(connection: Connection<Wire<IO>, Bytes>, shared: Arc<Http2Shared>) -> Self {
        Self {
            connection,
            shared,
            goodbye: None,
            is_polled: false,
        }
    }
}

impl<IO> Future for Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if !this.is_polled {
            this.is_polled = true;
            this.shared.set_driver(cx.waker());
        }
        let polled = Pin::new(&mut this.connection).poll(cx);
        if polled.is_pending()
            && !this.shared.has_news()
            && this.shared.conn().has_no_driver_flags()
        {
            return Poll::Pending;
        }
        this.poll_on(polled, cx)
    }
}

impl<IO> Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// After `h2` has been polled.
    #[inline(never)]
    fn poll_on(&mut self, polled: Poll<Result<(), h2::Error>>, cx: &mut Context<'_>) -> Poll<()> {
        let shared = &self.shared;
        let conn = shared.conn();
        if shared.take_settings() {
            shared.set_peer_limit(self.connection.max_concurrent_send_streams());
        }
        let reason = match polled {
            Poll::Ready(Ok(())) => conn.clean_end(),
            // What failed on the transport, or ended there without a goodbye, the transport has noted itself before.
            Poll::Ready(Err(_)) => CloseReason::Error,
            Poll::Pending => {
                shared.tell();
                if !conn.is_orphaned() || conn.is_detached() {
                    return Poll::Pending;
                }
                let goodbye = || Box::pin(tokio::time::sleep(GOODBYE));
                ready!(self.goodbye.get_or_insert_with(goodbye).as_mut().poll(cx));
                CloseReason::Dropped
            }
        };
        shared.close(reason);
        shared.tell();
        Poll::Ready(())
    }
}

impl<IO> Drop for Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    fn drop(&mut self) {
        self.shared.close(CloseReason::Dropped);
    }
}

//! The task that has the transport.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use crate::bond::TransportGuard;
use crate::cause::Cause;
use crate::error;

pin_project! {
    /// Runs a connection until it has closed or is handed on to an upgrade, or until it is aborted. Holds the transport
    /// and nothing of the pool; when it is dropped, the transport goes first and then the slot passes on.
    pub(super) struct Driver<F> {
        // hyper's connection, which it gives no name.
        #[pin]
        connection: F,
        guard: TransportGuard,
    }
}

impl<F> Driver<F> {
    pub(super) fn new(connection: F, guard: TransportGuard) -> Self {
        Self { connection, guard }
    }
}

impl<F> Future for Driver<F>
where
    F: Future<Output = hyper::Result<()>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let closed = ready!(this.connection.poll(cx));
        this.guard.note(match closed {
            Ok(()) => this.guard.clean_end(),
            Err(error) if error.is_incomplete_message() || error.is_canceled() => Cause::Peer,
            Err(error) if error::is_end_of_stream(&error) => Cause::Peer,
            Err(_) => Cause::Error,
        });
        Poll::Ready(())
    }
}

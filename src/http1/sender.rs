use std::future::{Future, ready};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;

use crate::error::SendError;
use crate::http1::upload::Upload;

/// In a box: hyper gives its future no name.
pub(super) type Sent<B> =
    Pin<Box<dyn Future<Output = Result<Response<Incoming>, SendError<B>>> + Send>>;

/// Takes requests to hyper's connection, until that has ended.
///
/// A request that is sent in the moment in which hyper's connection ends can arrive in a channel that has just been
/// emptied for the last time: tokio's `mpsc` counts a message before it is in the queue. There it would lie, and its
/// caller wait, for as long as there is a sender. So the sender goes with the connection, and such a request comes back.
pub(super) struct Sender<B>(Arc<Mutex<Option<SendRequest<Upload<B>>>>>);

/// Held beside hyper's connection, and dropped after it.
pub(super) struct SenderGuard<B>(Sender<B>);

impl<B> Sender<B> {
    pub(super) fn new(sender: SendRequest<Upload<B>>) -> (Self, SenderGuard<B>) {
        let shared = Arc::new(Mutex::new(Some(sender)));
        (Self(shared.clone()), SenderGuard(Self(shared)))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().as_ref().is_none_or(SendRequest::is_closed)
    }

    /// Ready when another request can be sent, or none ever again.
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self.lock() {
            Some(sender) => sender.poll_ready(cx).map(drop),
            None => Poll::Ready(()),
        }
    }

    /// Sends it at once; the future is for the response.
    pub(super) fn send(&self, request: Request<Upload<B>>) -> Sent<B>
    where
        B: Body + Send + 'static,
    {
        let Some(sender) = &mut *self.lock() else {
            return Box::pin(ready(Err(SendError {
                unsent: Some(request.map(Upload::into_inner)),
                error: io::Error::from(io::ErrorKind::ConnectionAborted).into(),
            })));
        };
        let sent = sender.try_send_request(request);
        Box::pin(async {
            sent.await.map_err(|mut error| SendError {
                unsent: error
                    .take_message()
                    .map(|request| request.map(Upload::into_inner)),
                error: error.into_error().into(),
            })
        })
    }

    /// No more requests: a connection with nothing to do ends.
    pub(super) fn close(&self) {
        let sender = self.lock().take();
        // After the lock: this may wake those who wait.
        drop(sender);
    }

    fn lock(&self) -> MutexGuard<'_, Option<SendRequest<Upload<B>>>> {
        // hyper leaves nothing half done if it panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Drop for SenderGuard<B> {
    fn drop(&mut self) {
        self.0.close();
    }
}

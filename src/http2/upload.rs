//! A request's body on its way to the server.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, SendStream};
use http_body::{Body, Frame};

use crate::connection::taken::{Part, Taken};
use crate::error::BoxError;
use crate::error::request_body::{BodyFault, RequestBodyError};
use crate::http2::piece::Piece;
use crate::http2::stream::StreamShared;

/// Sends a body as fast as the server accepts it. Ready when the body was sent completely, or when no more of it is
/// needed; the response then reports how the stream has ended.
pub(super) struct Upload<B> {
    body: B,
    /// Frames that another connection has read from the body. They are sent first.
    taken: Taken,
    /// The frames of both, for the next connection if the server refuses the request. `None` if too much of them was
    /// sent.
    kept: Option<Taken>,
    sent: usize,
    /// What was read from the body and does not fit the server's window yet, and whether it is the end of the body.
    rest: Option<(Bytes, bool)>,
    shared: Arc<StreamShared>,
    /// The stream's. If it is not the one of `shared` any more, the exchange was given up: that ends a task, but not a poll of
    /// it that has begun.
    id: u32,
    /// The length that the head announces.
    announced: Option<u64>,
    given: u64,
    is_over: bool,
}

/// How much of a body may be sent before its frames are not kept any more: the initial window of a stream (RFC 9113
/// §6.9.2), which is the most that the server can have received of a stream that it refuses at once.
const MOST_KEPT: usize = 65_535;

/// How much room is asked for at once: `h2` queues 400 KiB of a stream, and no more.
const MOST_RESERVED: usize = 400 * 1024;

impl<B> Upload<B> {
    pub(super) fn new(
        body: B,
        taken: Taken,
        shared: Arc<StreamShared>,
        id: u32,
        announced: Option<u64>,
    ) -> Self {
        Self {
            body,
            taken,
            kept: Some(Taken::default()),
            sent: 0,
            rest: None,
            shared,
            id,
            announced,
            given: 0,
            is_over: false,
        }
    }

    /// The body and the frames that were read from it, if all of them were kept.
    pub(super) fn into_parts(self) -> Option<(B, Taken)> {
        Some((self.body, self.kept?.then(self.taken)))
    }

    /// Whether nothing more is sent.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The response has arrived, so the request is not sent again.
    pub(super) fn keep_nothing(&mut self) {
        self.kept = None;
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(kept) = &mut self.kept else {
            return;
        };
        if let Some(data) = frame.data_ref() {
            kept.push(Part::Data(data.clone()));
        } else if let Some(trailers) = frame.trailers_ref() {
            kept.push(Part::Trailers(trailers.clone()));
        }
    }
}

impl<B> Upload<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Not to be polled again once it is ready.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RequestBodyError>> {
        let sent = ready!(self.poll_send(cx));
        self.is_over = true;
        Poll::Ready(match sent {
            Ok(all) => {
                self.shared.end_request(self.id, all);
                Ok(())
            }
            Err(error) => {
                self.shared
                    .with_stream(self.id, |it| it.send_reset(Reason::CANCEL));
                self.shared.end_request(self.id, false);
                Err(error)
            }
        })
    }

    /// Resolves to whether `h2` has taken all of the body. `h2` is given no more than the server's window has room for, so
    /// that a server that opens no window is a silent one.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, RequestBodyError>> {
        loop {
            if let Some((data, _)) = &self.rest
                && !ready!(self.poll_room(data.len(), cx))
            {
                return Poll::Ready(Ok(false));
            }
            if let Some((data, is_last)) = self.rest.take() {
                if let Some(all) = self.send_data(data, is_last) {
                    return Poll::Ready(Ok(all));
                }
                continue;
            }
            // Its end and its trailers need no room (RFC 9113 §6.9).
            let polled = self.poll_frame(cx);
            let is_over = self.shared.with_stream(self.id, |stream| {
                let activity = self.shared.conn().activity();
                activity.set_upload_waits(polled.is_pending());
                // If no more is needed, the awaited window may never open.
                polled.is_pending() && stream.poll_reset(cx).is_ready()
            });
            if polled.is_pending() && is_over != Some(false) {
                return Poll::Ready(Ok(false));
            }
            let frame = ready!(polled)?;
            let is_last = self.is_last(frame.as_ref());
            self.check_length(frame.as_ref(), is_last)?;
            if let Some(frame) = &frame {
                self.keep(frame);
            }
            let sent = match frame.map(Frame::into_data) {
                None => self.send_data(Bytes::new(), true),
                Some(Ok(data)) if data.is_empty() && !is_last => None,
                Some(Ok(data)) => self.send_data(data, is_last),
                // A frame of an unknown kind is skipped.
                Some(Err(frame)) => frame.into_trailers().ok().map(|trailers| {
                    let sent = self
                        .shared
                        .with_stream(self.id, |it| it.send_trailers(trailers));
                    sent.is_some_and(|sent| sent.is_ok())
                }),
            };
            if let Some(all) = sent {
                return Poll::Ready(Ok(all));
            }
        }
    }

    /// Sends what the window has room for, and keeps the rest of it. Returns whether the body was sent completely, unless
    /// more of it follows.
    fn send_data(&mut self, mut data: Bytes, is_last: bool) -> Option<bool> {
        let (rest, progress) = (&mut self.rest, self.shared.progress());
        let mut length = 0;
        let sent = self.shared.with_stream(self.id, |stream| {
            if !data.is_empty() {
                stream.reserve_capacity(data.len().min(MOST_RESERVED));
                let room = stream.capacity();
                if room < data.len() {
                    *rest = Some((data.split_off(room), is_last));
                    if room == 0 {
                        return Ok(());
                    }
                }
            }
            length = data.len();
            stream.send_data(Piece::new(data, progress), is_last && rest.is_none())
        });
        // A failed write is no error of its own: the stream has ended, and the response reports why.
        let is_sent = sent.is_some_and(|sent| sent.is_ok());
        if is_sent {
            self.sent = self.sent.saturating_add(length);
            if self.sent > MOST_KEPT {
                self.kept = None;
            }
        }
        let is_over = !is_sent || is_last && self.rest.is_none();
        is_over.then_some(is_sent)
    }

    /// Ready when there is room for at least one of the bytes, or when no more is needed.
    fn poll_room(&self, wanted: usize, cx: &mut Context<'_>) -> Poll<bool> {
        let room = self.shared.with_stream(self.id, |stream| {
            let room = poll_capacity(stream, wanted, cx);
            let activity = self.shared.conn().activity();
            activity.written(room.is_pending());
            room
        });
        room.unwrap_or(Poll::Ready(false))
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, RequestBodyError>> {
        if let Some(frame) = self.taken.next() {
            return Poll::Ready(Ok(Some(frame)));
        }
        if self.taken.is_all() {
            return Poll::Ready(Ok(None));
        }
        Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => Ok(Some(frame.map_data(|mut data| {
                let length = data.remaining();
                data.copy_to_bytes(length)
            }))),
            Some(Err(error)) => Err(RequestBodyError::failed(error)),
            None => {
                self.taken.set_all();
                Ok(None)
            }
        })
    }

    /// Whether this frame is the last one. A body that does not know it yet is polled for more.
    fn is_last(&self, frame: Option<&Frame<Bytes>>) -> bool {
        match frame {
            None => true,
            Some(frame) if frame.is_trailers() => true,
            Some(_) => self.taken.is_empty() && (self.taken.is_all() || self.body.is_end_stream()),
        }
    }

    fn check_length(
        &mut self,
        frame: Option<&Frame<Bytes>>,
        is_last: bool,
    ) -> Result<(), RequestBodyError> {
        let data = frame.and_then(Frame::data_ref);
        self.given += data.map_or(0, Bytes::len) as u64;
        let given = self.given;
        match self.announced {
            Some(announced) if given > announced => Err(BodyFault::Longer { announced }.into()),
            Some(announced) if given < announced && is_last => {
                Err(BodyFault::Shorter { announced, given }.into())
            }
            _ => Ok(()),
        }
    }
}

fn poll_capacity(
    stream: &mut SendStream<Piece>,
    wanted: usize,
    cx: &mut Context<'_>,
) -> Poll<bool> {
    stream.reserve_capacity(wanted.min(MOST_RESERVED));
    while stream.capacity() == 0 {
        // A reset wakes the task that waits for room.
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(false),
        }
    }
    Poll::Ready(true)
}

/// As a task, if the response came first: the response can be read while the body is sent.
impl<B> Future for Upload<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll(&mut self, cx).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::Empty;

    use super::*;
    use crate::connection::shared::ConnShared;
    use crate::http2::shared::Http2Shared;

    /// A body in whose poll something else happens, as on another thread.
    struct Meanwhile<F>(Option<F>);

    impl<F: FnOnce() -> Poll<Bytes> + Unpin> Body for Meanwhile<F> {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            match self.0.take() {
                Some(act) => act().map(|data| Some(Ok(Frame::data(data)))),
                None => Poll::Pending,
            }
        }
    }

    /// Ending a task does not end a poll of it that has begun. So the use may be returned and taken again in the midst of one.
    #[tokio::test]
    async fn an_upload_whose_exchange_was_given_up_leaves_the_next_one_alone() {
        let (here, _there) = tokio::io::duplex(1 << 16);
        let handshake = h2::client::Builder::new().handshake::<_, Piece>(here);
        let (mut sender, _connection) = handshake.await.unwrap();
        let mut begin = |shared: &Arc<StreamShared>| {
            shared.conn().activity().begin_use(1);
            shared.begin(true);
            let request = Request::new(());
            let (_response, stream) = sender.send_request(request, false).unwrap();
            let id = stream.stream_id().as_u32();
            shared.begun(id, stream, Request::new(()).into_parts().0);
            id
        };
        for read in [Poll::Ready(Bytes::from_static(b"secret")), Poll::Pending] {
            let conn = Arc::new(ConnShared::new());
            let connection = Arc::new(Http2Shared::new(conn.clone(), 100, 100, 0));
            let shared = StreamShared::new(connection, conn);
            let id = begin(&shared);
            let mut next = 0;
            let body = Meanwhile(Some(|| {
                shared.cancel(id);
                next = begin(&shared);
                read
            }));
            let mut upload = Upload::new(body, Taken::default(), shared.clone(), id, None);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let polled = upload.poll(&mut cx);
            assert!(shared.progress().is_over(), "no piece of it is sent");
            assert!(!shared.conn().activity().is_caller_awaited());
            assert!(polled.is_ready(), "it ends");
            drop(upload);
            shared.end_response();
            assert!(shared.is_busy(), "the next request is not sent yet");
            shared.end_request(next, true);
            assert!(!shared.is_busy());
            assert!(!shared.is_cut());
        }
    }

    #[test]
    fn a_body_is_as_long_as_it_was_announced_or_fails() {
        let data = |length: usize| Frame::data(Bytes::from(vec![b'x'; length]));
        let length = |announced: Option<u64>, frames: &[usize]| {
            let conn = Arc::new(ConnShared::new());
            let connection = Arc::new(Http2Shared::new(conn.clone(), 100, 100, 0));
            let shared = StreamShared::new(connection, conn);
            let mut upload = Upload::new(
                Empty::<Bytes>::new(),
                Taken::default(),
                shared,
                1,
                announced,
            );
            for &length in frames {
                upload.check_length(Some(&data(length)), false)?;
            }
            upload.check_length(None, true)
        };
        for (announced, frames, is_right) in [
            (None, &[1, 2][..], true),
            (Some(3), &[1, 2], true),
            (Some(3), &[1, 3], false),
            (Some(3), &[4], false),
            (Some(3), &[1, 1], false),
            (Some(0), &[], true),
        ] {
            assert_eq!(length(announced, frames).is_ok(), is_right, "{frames:?}");
        }
    }
}

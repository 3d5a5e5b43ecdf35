//! Every order of the steps that the driver of a connection, the owners of its uses and their uploads take at the same
//! time, tried one by one on the source that is shipped, as in `pool::interleavings`. `h2` is in one model only, whose own
//! locks are std's: each of its calls is one step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread as real;

use futures_util::FutureExt;
use h2::SendStream;
use h2::client::SendRequest;
use http::Request;
use loom::thread::spawn;

use crate::connection::close_reason::CloseReason;
use crate::connection::shared::{ChangeHook, ConnShared};
use crate::http2::frames::GoAway;
use crate::http2::piece::Piece;
use crate::http2::shared::Http2Shared;
use crate::http2::stream::StreamShared;
use crate::sync::explore;

fn connection() -> Arc<Http2Shared> {
    Arc::new(Http2Shared::new(Arc::new(ConnShared::new()), 100, 100, 0))
}

fn use_of(connection: &Arc<Http2Shared>) -> Arc<StreamShared> {
    StreamShared::new(connection.clone(), connection.conn().clone())
}

#[test]
fn a_limit_against_the_end_of_its_exchange_and_the_next_one() {
    let name = "an exchange reaches its limit, and ends, and the next one begins";
    explore(name, 3, || {
        let connection = connection();
        let stream = use_of(&connection);
        let activity = stream.conn().activity();
        activity.begin_use(1);
        stream.begin(false);
        let driver = {
            let stream = stream.clone();
            spawn(move || stream.fail(1, CloseReason::Silence))
        };
        stream.end_response();
        let goes_on = stream.failure().is_none();
        if goes_on {
            activity.begin_use(2);
            stream.begin(false);
        }
        driver.join().expect("looked at");
        assert_eq!(stream.is_busy(), goes_on, "the limit was the first one's");
        assert_eq!(stream.failure().is_none(), goes_on);
        assert_eq!(connection.has_streams(), goes_on);
    });
}

#[test]
fn an_exchange_that_ends_in_three_ways_at_once_ends_once() {
    let name = "a response ends, its use is dropped, its limit is reached";
    explore(name, 3, || {
        let connection = connection();
        let stream = use_of(&connection);
        stream.conn().activity().begin_use(1);
        stream.begin(false);
        let ends: [fn(&StreamShared); 2] = [
            |it| it.fail(1, CloseReason::Silence),
            StreamShared::end_response,
        ];
        let ending = ends.map(|end| {
            let stream = stream.clone();
            spawn(move || end(&stream))
        });
        stream.close();
        for it in ending {
            it.join().expect("ended");
        }
        assert!(!stream.is_busy());
        assert!(!connection.has_streams(), "counted once");
    });
}

#[test]
fn an_upload_that_was_given_up_against_the_next_exchange() {
    let name = "an exchange is given up, its upload ends, and the next one begins";
    explore(name, 3, || {
        let connection = connection();
        let stream = use_of(&connection);
        let (_sender, first, second) = streams();
        let ids = [&first, &second].map(|it| it.stream_id().as_u32());
        let begin = |id, of_h2| {
            stream.begin(true);
            stream.begun(id, of_h2, Request::new(()).into_parts().0);
        };
        begin(ids[0], first);
        let upload = {
            let stream = stream.clone();
            spawn(move || stream.end_request(ids[0], true))
        };
        stream.cancel(ids[0]);
        begin(ids[1], second);
        upload.join().expect("ended");
        stream.end_response();
        assert!(stream.is_busy(), "the second request is not sent yet");
        stream.end_request(ids[1], true);
        assert!(!stream.is_busy());
        assert!(!connection.has_streams());
    });
}

/// Two streams of one connection. Made in a thread of its own, because `h2` needs more stack than the checker's have.
fn streams() -> (SendRequest<Piece>, SendStream<Piece>, SendStream<Piece>) {
    let making = real::spawn(|| {
        let (here, _there) = tokio::io::duplex(1 << 16);
        let handshake = h2::client::Builder::new().handshake::<_, Piece>(here);
        let made = handshake.now_or_never().expect("there is room");
        let (mut sender, _connection) = made.expect("no error");
        let mut begin = || {
            let sent = sender.send_request(Request::new(()), false);
            sent.expect("the connection is open").1
        };
        let (first, second) = (begin(), begin());
        (sender, first, second)
    });
    making.join().expect("made")
}

#[test]
fn a_goaway_against_a_doubt_is_told_to_the_pool() {
    let name = "a GOAWAY comes, a request is given up, a stream ends";
    explore(name, 3, || {
        let connection = connection();
        let stream = use_of(&connection);
        stream.begin(false);
        // std's, because it is no step of the model.
        let is_told = Arc::new(AtomicBool::new(false));
        let hook = {
            let (connection, is_told) = (Arc::downgrade(&connection), is_told.clone());
            ChangeHook::new(move || {
                let connection = connection.upgrade().expect("it is told of");
                is_told.fetch_or(!connection.is_open(), Relaxed);
            })
        };
        connection.set_hook(hook);
        let driver = {
            let connection = connection.clone();
            spawn(move || {
                connection.goes_away(GoAway {
                    code: 0,
                    debug_data: Vec::new(),
                });
                connection.notify_pool();
            })
        };
        let other = {
            let connection = connection.clone();
            spawn(move || connection.doubt())
        };
        stream.end_response();
        driver.join().expect("told");
        other.join().expect("told");
        assert!(is_told.load(Relaxed), "no more uses are given out");
        assert!(!connection.has_streams());
    });
}

//! The server that the clients ask: it does as little as it can, and counts.

use std::cell::RefCell;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

use crate::server_delay::Delay;
use crate::server_http2;

/// What a server has seen: `GET /stats` tells it, as JSON.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Stats {
    /// Connections with one request at least.
    pub sockets: u64,
    pub requests: u64,
    /// The fewest and the most requests on one connection.
    pub fewest: u64,
    pub most: u64,
}

/// Requests on each connection that was ever accepted.
pub(crate) type Tally = Rc<RefCell<Vec<u64>>>;

/// A server in a thread of its own, to the end of the program: its address, and where to send streams in memory.
pub fn in_thread() -> (SocketAddr, UnboundedSender<DuplexStream>) {
    let (streams, incoming) = unbounded_channel();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let delay = Delay::of(Duration::ZERO, Semaphore::MAX_PERMITS);
        run(delay, 1, incoming, move |addr| {
            tell.send(addr).expect("it is waited for");
        })
    });
    (told.recv().expect("a free port"), streams)
}

/// Where the first argument of the program is `serve`, it is a server, until its standard input is closed. The second
/// is how many milliseconds it takes over an answer, the third over how many at a time, the fourth at how many addresses it
/// listens. With `serve-http2` it is one of HTTP/2.
pub fn be_one_if_told() {
    let mut arguments = std::env::args().skip(1);
    let word = arguments.next();
    if !matches!(word.as_deref(), Some("serve" | "serve-http2")) {
        return;
    }
    std::thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let tell = |addr| println!("listening on {addr}");
    if word.as_deref() == Some("serve-http2") {
        return server_http2::run(tell);
    }
    let mut number = |default| {
        arguments
            .next()
            .map_or(default, |it| it.parse().expect("a number"))
    };
    let delay = Duration::from_millis(number(0) as u64);
    let delay = Delay::of(delay, number(Semaphore::MAX_PERMITS));
    let addresses = u8::try_from(number(1)).expect("127.0.0.255 is the last");
    let (_streams, incoming) = unbounded_channel();
    run(delay, addresses, incoming, tell);
}

/// Does not return.
fn run(
    delay: Delay,
    addresses: u8,
    mut streams: UnboundedReceiver<DuplexStream>,
    tell: impl FnOnce(SocketAddr),
) {
    let runtime = Builder::new_current_thread().enable_all().build();
    let tally = Tally::default();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let first = listener.local_addr().expect("it is bound");
        for last in 2..=addresses {
            let other = (Ipv4Addr::new(127, 0, 0, last), first.port());
            let other = TcpListener::bind(other).await.expect("a free port");
            let (delay, tally) = (delay.clone(), tally.clone());
            tokio::task::spawn_local(accept(other, delay, tally));
        }
        tell(first);
        loop {
            tokio::select! {
                Ok((stream, _)) = listener.accept() => {
                    let _ = stream.set_nodelay(true);
                    tokio::task::spawn_local(serve(stream, delay.clone(), tally.clone()));
                }
                Some(stream) = streams.recv() => {
                    tokio::task::spawn_local(serve(stream, delay.clone(), tally.clone()));
                }
            }
        }
    });
}

async fn accept(listener: TcpListener, delay: Delay, tally: Tally) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        tokio::task::spawn_local(serve(stream, delay.clone(), tally.clone()));
    }
}

/// Answers `/LENGTH` with so many bytes, whatever was sent with it.
pub(crate) async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    delay: Delay,
    tally: Tally,
) {
    let mut arrived = Vec::with_capacity(64 * 1024);
    let mut answer = (String::new(), Vec::new());
    let mut place = None;
    loop {
        let Some(head) = read_head(&mut stream, &mut arrived).await else {
            return;
        };
        delay.pass().await;
        if head.target == "/stats" {
            let stats = serde_json::to_string(&Stats::of(&tally.borrow())).expect("plain numbers");
            let text = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{stats}",
                stats.len()
            );
            let _ = stream.write_all(text.as_bytes()).await;
            continue;
        }
        let place = *place.get_or_insert_with(|| {
            tally.borrow_mut().push(0);
            tally.borrow().len() - 1
        });
        tally.borrow_mut()[place] += 1;
        if answer.0 != head.target {
            answer = (head.target.clone(), answer_to(&head.target));
        }
        if stream.write_all(&answer.1).await.is_err() || head.is_last {
            return;
        }
    }
}

struct Head {
    target: String,
    is_last: bool,
}

/// The head of the next request; its body is read, and forgotten.
async fn read_head(stream: &mut (impl AsyncRead + Unpin), arrived: &mut Vec<u8>) -> Option<Head> {
    let end = loop {
        if let Some(at) = arrived.windows(4).position(|it| it == b"\r\n\r\n") {
            break at + 4;
        }
        let Ok(1..) = stream.read_buf(arrived).await else {
            return None;
        };
    };
    let text = std::str::from_utf8(&arrived[..end]).expect("the clients write text");
    let target = text.split(' ').nth(1).expect("a request line");
    // hyper by itself sends the URI as it got it.
    let path = target.rfind('/').expect("a path");
    let field = |name: &str| {
        text.lines().find_map(|line| {
            let (it, value) = line.split_once(':')?;
            it.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    };
    let is_last = field("connection").is_some_and(|it| it.eq_ignore_ascii_case("close"));
    let length = match text.starts_with("GET ") {
        true => 0,
        false => field("content-length").map_or(0, |it| it.parse().expect("a length")),
    };
    let head = Head {
        target: target[path..].to_owned(),
        is_last,
    };
    arrived.drain(..end);
    let mut left: usize = length;
    loop {
        let here = left.min(arrived.len());
        arrived.drain(..here);
        left -= here;
        if left == 0 {
            return Some(head);
        }
        let Ok(1..) = stream.read_buf(arrived).await else {
            return None;
        };
    }
}

fn answer_to(target: &str) -> Vec<u8> {
    let length: usize = target[1..].parse().expect("the path is a length");
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + length, b'.');
    answer
}

impl Stats {
    fn of(tally: &[u64]) -> Self {
        Self {
            sockets: tally.len() as u64,
            requests: tally.iter().sum(),
            fewest: tally.iter().min().copied().unwrap_or(0),
            most: tally.iter().max().copied().unwrap_or(0),
        }
    }
}

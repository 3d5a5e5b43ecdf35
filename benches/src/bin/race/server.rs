//! A server that closes connections as soon as they are idle for a little.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// How long it waits for another request. Not for the first: whoever connects may take any time.
const PATIENCE: Duration = Duration::from_millis(5);

/// Answers `/ID` with `ID`. It has a thread of its own, and ends when it is dropped.
pub(crate) struct Server {
    addr: SocketAddr,
    tally: Arc<Tally>,
    _runtime: Runtime,
}

struct Tally {
    accepted: AtomicUsize,
    /// How often each request was executed.
    executed: Vec<AtomicUsize>,
}

/// What happens to a request that comes just when its connection is closed.
#[derive(Clone, Copy)]
pub(crate) enum Late {
    /// Nobody reads it.
    Lost,
    /// It is executed, but there is no answer any more.
    Executed,
}

impl Server {
    /// A server for requests with ids below `ids`.
    pub(crate) fn start(ids: usize, late: Late) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a free port");
        let tally = Arc::new(Tally {
            accepted: AtomicUsize::new(0),
            executed: (0..ids).map(|_| AtomicUsize::new(0)).collect(),
        });
        let addr = listener.local_addr().expect("it is bound");
        runtime.spawn({
            let tally = tally.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tally.accepted.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(serve(stream, tally.clone(), late));
                }
            }
        });
        Self {
            addr,
            tally,
            _runtime: runtime,
        }
    }

    pub(crate) fn url(&self, id: usize) -> String {
        format!("http://{}/{id}", self.addr)
    }

    pub(crate) fn accepted(&self) -> usize {
        self.tally.accepted.load(Ordering::Relaxed)
    }

    pub(crate) fn executed(&self, id: usize) -> usize {
        self.tally.executed[id].load(Ordering::Relaxed)
    }
}

async fn serve(mut stream: TcpStream, tally: Arc<Tally>, late: Late) {
    let _ = stream.set_nodelay(true);
    let mut arrived = Vec::with_capacity(1024);
    let Ok(1..) = stream.read_buf(&mut arrived).await else {
        return;
    };
    loop {
        while let Some(id) = take_request(&mut arrived) {
            tally.executed[id].fetch_add(1, Ordering::Relaxed);
            let body = id.to_string();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            if stream.write_all((head + &body).as_bytes()).await.is_err() {
                return;
            }
        }
        match timeout(PATIENCE, stream.read_buf(&mut arrived)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => return,
            Err(_) => break,
        }
    }
    if let Late::Executed = late {
        let _ = stream.shutdown().await;
        let _ = timeout(PATIENCE, stream.read_buf(&mut arrived)).await;
        while let Some(id) = take_request(&mut arrived) {
            tally.executed[id].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The id of the first whole request that has arrived.
fn take_request(arrived: &mut Vec<u8>) -> Option<usize> {
    let end = arrived.windows(4).position(|it| it == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&arrived[..end]).expect("the clients write text");
    let target = head.split(' ').nth(1).expect("a request line");
    let id = target[1..].parse().expect("the target is an id");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().expect("a length"))
    });
    let end = end + length.unwrap_or(0);
    (arrived.len() >= end).then(|| {
        arrived.drain(..end);
        id
    })
}

//! The callers: plain sockets and as little HTTP as will do, so that what is measured is the proxy.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// The length of an answer.
const LENGTH: usize = 256;

/// So many requests by so many callers, each with a socket that is kept.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub addr: SocketAddr,
    pub callers: usize,
    pub requests: usize,
}

/// What the callers saw.
#[derive(Debug)]
pub struct Seen {
    elapsed: Duration,
    /// In order.
    latencies: Vec<Duration>,
}

struct Shared {
    load: Load,
    request: String,
    left: Cell<usize>,
    latencies: RefCell<Vec<Duration>>,
}

impl Load {
    /// Fails where one of the requests does, or all of it takes longer than three minutes.
    pub fn run(self) -> io::Result<Seen> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let shared = Rc::new(Shared {
            load: self,
            request: format!("GET /{LENGTH} HTTP/1.1\r\nhost: {}\r\n\r\n", self.addr),
            left: Cell::new(self.requests),
            latencies: RefCell::new(Vec::with_capacity(self.requests)),
        });
        let begun = Instant::now();
        LocalSet::new().block_on(&runtime, async {
            let callers: Vec<_> = (0..self.callers)
                .map(|_| tokio::task::spawn_local(call(shared.clone())))
                .collect();
            let all = async {
                for caller in callers {
                    caller.await.expect("callers do not panic")?;
                }
                io::Result::Ok(())
            };
            let in_time = tokio::time::timeout(PATIENCE, all).await;
            in_time.unwrap_or_else(|elapsed| Err(elapsed.into()))
        })?;
        let elapsed = begun.elapsed();
        let mut latencies = shared.latencies.take();
        latencies.sort();
        Ok(Seen { elapsed, latencies })
    }
}

async fn call(shared: Rc<Shared>) -> io::Result<()> {
    let mut stream = TcpStream::connect(shared.load.addr).await?;
    stream.set_nodelay(true)?;
    while let Some(left) = shared.left.get().checked_sub(1) {
        shared.left.set(left);
        let begun = Instant::now();
        exchange(&mut stream, &shared.request).await?;
        shared.latencies.borrow_mut().push(begun.elapsed());
    }
    Ok(())
}

async fn exchange(stream: &mut TcpStream, request: &str) -> io::Result<()> {
    stream.write_all(request.as_bytes()).await?;
    let mut arrived = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut arrived).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = arrived.windows(4).position(|it| it == b"\r\n\r\n") else {
            continue;
        };
        if !arrived.starts_with(b"HTTP/1.1 200") {
            let head = String::from_utf8_lossy(&arrived[..end]).into_owned();
            return Err(io::Error::other(head));
        }
        // Every proxy passes the server's Content-Length on.
        if arrived.len() == end + 4 + LENGTH {
            return Ok(());
        }
    }
}

impl Seen {
    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that this part of the requests did not exceed.
    pub fn millis(&self, part: f64) -> f64 {
        let place = (self.latencies.len() as f64 * part) as usize;
        let latency = self.latencies.get(place).or(self.latencies.last());
        latency.map_or(0.0, |it| it.as_secs_f64() * 1_000.0)
    }
}

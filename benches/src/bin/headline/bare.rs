//! The base: a proxy on plain sockets that passes requests and answers on, and does nothing else.
//!
//! Two threads that share nothing: each has every second caller, and half of the connections. So there is no lock, no task
//! that wakes another thread, and of HTTP only the end of a head and its `content-length`.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream as StdStream};
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::{LocalSet, spawn_local};

/// The first argument of the program where it is to be the base; `UPSTREAM SOCKETS keep|close` follow.
pub(crate) const NAME: &str = "bare";

const THREADS: usize = 2;

/// The connections of one thread to the server.
struct Upstream {
    addr: SocketAddr,
    keeps: bool,
    permits: Semaphore,
    idle: RefCell<Vec<TcpStream>>,
}

/// Where it was told to, the program is the base until it is killed.
pub(crate) fn be_it_if_told() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [name, addr, sockets, keep] = &*arguments else {
        return;
    };
    if name != NAME {
        return;
    }
    let addr = addr.parse().expect("an address");
    let sockets: usize = sockets.parse().expect("a number");
    let keeps = keep == "keep";
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (callers, arrivals) = unbounded_channel();
            std::thread::spawn(move || run(addr, sockets / THREADS, keeps, arrivals));
            callers
        })
        .collect();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    println!("listening on {addr}");
    for (caller, thread) in listener.incoming().zip(threads.iter().cycle()) {
        let caller = caller.expect("callers can be accepted");
        thread.send(caller).expect("the thread runs");
    }
}

/// Does not return.
fn run(addr: SocketAddr, sockets: usize, keeps: bool, mut callers: UnboundedReceiver<StdStream>) {
    let upstream = Rc::new(Upstream {
        addr,
        keeps,
        permits: Semaphore::new(sockets),
        idle: RefCell::default(),
    });
    let runtime = Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async move {
        while let Some(caller) = callers.recv().await {
            let upstream = upstream.clone();
            spawn_local(async move { upstream.serve(caller).await });
        }
    });
}

impl Upstream {
    async fn serve(&self, caller: StdStream) -> io::Result<()> {
        caller.set_nonblocking(true)?;
        caller.set_nodelay(true)?;
        let mut caller = TcpStream::from_std(caller)?;
        let (mut request, mut answer) = (Vec::with_capacity(1024), Vec::with_capacity(1024));
        loop {
            request.clear();
            while !request.ends_with(b"\r\n\r\n") {
                if caller.read_buf(&mut request).await? == 0 {
                    return Ok(());
                }
            }
            if !self.keeps {
                request.truncate(request.len() - 2);
                request.extend_from_slice(b"connection: close\r\n\r\n");
            }
            self.ask(&request, &mut answer).await?;
            caller.write_all(&answer).await?;
        }
    }

    async fn ask(&self, request: &[u8], answer: &mut Vec<u8>) -> io::Result<()> {
        let _permit = self.permits.acquire().await.expect("it is not closed");
        let taken = self.idle.borrow_mut().pop();
        let mut stream = match taken {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.addr).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        stream.write_all(request).await?;
        answer.clear();
        while !is_whole(answer) {
            if stream.read_buf(answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if self.keeps {
            self.idle.borrow_mut().push(stream);
        }
        Ok(())
    }
}

/// The server says a length, and nothing else.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|it| it == b"\r\n\r\n") else {
        return false;
    };
    let head = std::str::from_utf8(&answer[..end]).unwrap_or("");
    let length = head
        .lines()
        .find_map(|it| it.strip_prefix("content-length: "));
    let length: usize = length.and_then(|it| it.parse().ok()).unwrap_or(0);
    answer.len() >= end + 4 + length
}

//! The base: a proxy on plain sockets that passes requests and answers on, and does nothing else.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

/// The first argument of the program where it is to be the base; `UPSTREAM SOCKETS keep|close` follow.
pub(crate) const NAME: &str = "bare";

/// Its connections to the server.
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
    let upstream = Rc::new(Upstream {
        addr: addr.parse().expect("an address"),
        keeps: keep == "keep",
        permits: Semaphore::new(sockets.parse().expect("a number")),
        idle: RefCell::default(),
    });
    let runtime = Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        println!("listening on {addr}");
        while let Ok((caller, _)) = listener.accept().await {
            let upstream = upstream.clone();
            tokio::task::spawn_local(async move { upstream.serve(caller).await });
        }
    });
}

impl Upstream {
    async fn serve(&self, mut caller: TcpStream) -> io::Result<()> {
        caller.set_nodelay(true)?;
        let mut request = Vec::with_capacity(1024);
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
            let answer = self.ask(&request).await?;
            caller.write_all(&answer).await?;
        }
    }

    async fn ask(&self, request: &[u8]) -> io::Result<Vec<u8>> {
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
        let mut answer = Vec::with_capacity(1024);
        while !is_whole(&answer) {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if self.keeps {
            self.idle.borrow_mut().push(stream);
        }
        Ok(answer)
    }
}

/// The server says a length, and nothing else.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|it| it == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]);
    let length = head
        .lines()
        .find_map(|it| it.strip_prefix("content-length: "));
    let length: usize = length.and_then(|it| it.parse().ok()).unwrap_or(0);
    answer.len() >= end + 4 + length
}

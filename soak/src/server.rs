//! The servers: one over TCP, one under TLS, on a runtime of their own.

use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use crc32fast::hash;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::coop::unconstrained;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::asked::{Asked, Framing};
use crate::house::House;
use crate::ledger::{Wrong, count, lock};
use crate::temper::{Temper, content};
use crate::wire::Ends;

/// What an answer to nobody says.
const STRAY_200: &[u8] = b"HTTP/1.1 200 OK\r\nx-request-id: 0\r\ncontent-length: 3\r\n\r\n<0>";
const STRAY_408: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// No longer than this is a connection kept for what may not come.
const WATCH: Duration = Duration::from_millis(20);

/// A transport that can be reset.
pub(crate) trait Line: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn tcp(&self) -> &TcpStream;
}

impl Line for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Line for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Accepts for ever; with `tls`, each connection after its handshake.
pub(crate) async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, house: Arc<House>) {
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            // Out of descriptors: the next may find one.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Ok(server) = stream.local_addr() else {
            continue;
        };
        let ends = (client, server);
        stream.set_nodelay(true).ok();
        count(&house.ledger.accepted);
        let (tls, house) = (tls.clone(), house.clone());
        tokio::spawn(async move {
            match tls {
                None => serve(stream, ends, house).await,
                Some(tls) => {
                    count(&house.ledger.tls);
                    if let Ok(Ok(stream)) =
                        timeout(Duration::from_secs(10), tls.accept(stream)).await
                    {
                        serve(stream, ends, house).await;
                    }
                }
            }
        });
    }
}

async fn serve<L: Line>(line: L, ends: Ends, house: Arc<House>) {
    let mut conn = Conn {
        line,
        ends,
        house,
        arrived: Vec::with_capacity(1024),
        hinted: None,
        early: None,
    };
    // An end in the middle is the caller's right.
    while let Ok(ControlFlow::Continue(())) = conn.exchange().await {}
}

struct Conn<L> {
    line: L,
    ends: Ends,
    house: Arc<House>,
    arrived: Vec<u8>,
    /// So many more requests may come, as was said.
    hinted: Option<u64>,
    /// The last exchange, if its answer was sent before its upload was here.
    early: Option<u64>,
}

type Next = io::Result<ControlFlow<()>>;
const ON: Next = Ok(ControlFlow::Continue(()));
const END: Next = Ok(ControlFlow::Break(()));

impl<L: Line> Conn<L> {
    async fn exchange(&mut self) -> Next {
        let Some(asked) = self.head().await? else {
            return END;
        };
        if self.hinted == Some(0) {
            self.wrong(Wrong::Misused, "a request beyond the hint", &asked);
        }
        self.hinted = self.hinted.map(|left| left.saturating_sub(1));
        if let Some(early) = self.early.take()
            && self.house.was_cut_short(early)
        {
            let words = "a request behind an upload that was not over when its answer was";
            self.wrong(Wrong::Misused, words, &asked);
        }
        let (temper, id) = (asked.temper, asked.id);
        if asked.method == "POST" && self.house.has_executed(id) {
            self.wrong(Wrong::Twice, "executed twice", &asked);
        }
        if temper == Temper::Early {
            return self.early(&asked).await;
        }
        self.upload(&asked).await?;
        match temper {
            Temper::Fin => {
                self.did(temper);
                return END;
            }
            Temper::Rst => return self.rst(temper),
            Temper::Stall => {
                self.did(temper);
                return self
                    .watch(
                        Duration::from_secs(10),
                        &asked,
                        "a request behind an unanswered one",
                    )
                    .await;
            }
            Temper::Upgrade => return self.upgrade(&asked).await,
            Temper::Hold => {
                let barrier = lock(&self.house.barriers).get(&id).cloned();
                if let Some(barrier) = barrier {
                    timeout(Duration::from_secs(15), barrier.wait()).await.ok();
                }
            }
            Temper::Hint if self.hinted.is_none() => self.hinted = Some(id % 4),
            _ => {}
        }
        self.answer(&asked).await?;
        if !temper.is_fault() && !matches!(temper, Temper::Close | Temper::UntilClosed) {
            self.did(temper);
        }
        self.afterwards(&asked).await
    }

    /// What comes when the answer is out.
    async fn afterwards(&mut self, asked: &Asked) -> Next {
        let pause = Duration::from_micros(fastrand::u64(..3000));
        match asked.temper {
            Temper::Close | Temper::UntilClosed => {
                self.did(asked.temper);
                self.line.shutdown().await?;
                // The answer to a HEAD ends with its head, whatever is closed then.
                if asked.temper == Temper::UntilClosed && asked.method == "HEAD" {
                    return END;
                }
                self.watch(WATCH, asked, "a request after the last").await
            }
            Temper::Truncated => {
                self.did(asked.temper);
                self.line.shutdown().await?;
                END
            }
            Temper::RstInBody => self.rst(asked.temper),
            Temper::Glued => {
                self.did(asked.temper);
                self.watch(WATCH, asked, "a request behind a stray").await
            }
            Temper::Stray200 | Temper::Stray408 => {
                if !self.is_idle_for(pause).await? || !self.stray(asked.temper) {
                    return ON;
                }
                self.did(asked.temper);
                if asked.temper == Temper::Stray408 {
                    self.line.shutdown().await?;
                }
                self.watch(WATCH, asked, "a request behind a stray").await
            }
            Temper::IdleFin | Temper::IdleRst if self.is_idle_for(pause).await? => {
                if asked.temper == Temper::IdleRst {
                    return self.rst(asked.temper);
                }
                self.did(asked.temper);
                END
            }
            _ if self.hinted == Some(0) => {
                self.watch(WATCH, asked, "a request beyond the hint").await
            }
            _ => ON,
        }
    }

    async fn answer(&mut self, asked: &Asked) -> io::Result<()> {
        let Asked {
            temper, id, length, ..
        } = *asked;
        let body = match asked.method.as_str() {
            "HEAD" => Vec::new(),
            _ => content(id, length),
        };
        let mut head = String::new();
        if temper == Temper::Interim {
            head += "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
        }
        head += &format!("HTTP/1.1 200 OK\r\nx-request-id: {id}\r\n");
        head += &match temper {
            Temper::Chunked => "transfer-encoding: chunked\r\n".to_owned(),
            Temper::UntilClosed => String::new(),
            _ => format!("content-length: {length}\r\n"),
        };
        if temper == Temper::Close {
            head += "connection: close\r\n";
        } else if let Some(left) = self.hinted {
            head += &format!("keep-alive: timeout=2, max={left}\r\n");
        }
        let mut bytes = (head + "\r\n").into_bytes();
        match temper {
            Temper::Chunked if asked.method != "HEAD" => {
                for chunk in body.chunks(1 + length / 3) {
                    bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n\r\n");
            }
            Temper::Truncated | Temper::RstInBody => bytes.extend(&body[..body.len() / 2]),
            _ => bytes.extend(&body),
        }
        if temper == Temper::Glued {
            bytes.extend(STRAY_200);
        }
        self.house.wires.answered(self.ends);
        if temper != Temper::Slow {
            return self.send(&bytes).await;
        }
        for piece in bytes.chunks(1 + bytes.len() / 4) {
            self.send(piece).await?;
            sleep(Duration::from_micros(300)).await;
        }
        Ok(())
    }

    /// Answers first, and may read the upload then.
    async fn early(&mut self, asked: &Asked) -> Next {
        self.did(Temper::Early);
        self.early = Some(asked.id);
        self.answer(asked).await?;
        match asked.id % 3 {
            0 => {
                sleep(Duration::from_millis(1)).await;
                self.line.tcp().set_zero_linger().ok();
                END
            }
            _ => {
                self.upload(asked).await?;
                ON
            }
        }
    }

    async fn upgrade(&mut self, asked: &Asked) -> Next {
        self.did(Temper::Upgrade);
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nx-request-id: {}\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello",
            asked.id
        );
        self.send(head.as_bytes()).await?;
        let echo = async {
            loop {
                let arrived = std::mem::take(&mut self.arrived);
                self.send(&arrived).await?;
                if !self.fill().await? {
                    return io::Result::Ok(());
                }
            }
        };
        timeout(Duration::from_secs(10), echo).await.ok();
        END
    }

    /// Sends what nobody asked for, unless the agent has looked at the connection since.
    fn stray(&mut self, temper: Temper) -> bool {
        let bytes = if temper == Temper::Stray408 {
            STRAY_408
        } else {
            STRAY_200
        };
        let (line, wires) = (&mut self.line, self.house.wires.clone());
        wires.unless_looked_at(self.ends, || {
            let sent = unconstrained(async {
                line.write_all(bytes).await.ok();
                line.flush().await.ok();
            });
            // The socket's buffer is empty.
            let _ = pin!(sent).poll(&mut Context::from_waker(Waker::noop()));
        })
    }

    /// No request may come any more; until the client closes, or not for long.
    async fn watch(&mut self, time: Duration, asked: &Asked, words: &str) -> Next {
        if let Ok(Ok(true)) = timeout(time, self.fill()).await {
            self.wrong(Wrong::Misused, words, asked);
        }
        END
    }

    /// Whether nothing comes for so long.
    async fn is_idle_for(&mut self, time: Duration) -> io::Result<bool> {
        match timeout(time, self.fill()).await {
            Err(_) => Ok(self.arrived.is_empty()),
            Ok(Ok(true)) => Ok(false),
            Ok(Ok(false)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Err(error)) => Err(error),
        }
    }

    fn rst(&mut self, temper: Temper) -> Next {
        self.did(temper);
        self.line.tcp().set_zero_linger().ok();
        END
    }

    /// The next request; none if the client has closed.
    async fn head(&mut self) -> io::Result<Option<Asked>> {
        let end = loop {
            if let Some(at) = self.arrived.windows(4).position(|it| it == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill().await? {
                return Ok(None);
            }
        };
        let head: Vec<u8> = self.arrived.drain(..end).collect();
        let asked = std::str::from_utf8(&head).ok().and_then(Asked::parse);
        if asked.is_none() {
            let words = String::from_utf8_lossy(&head).into_owned();
            self.house.ledger.wrong(Wrong::Desync, words);
        }
        Ok(asked)
    }

    /// Reads the upload to its end.
    async fn upload(&mut self, asked: &Asked) -> io::Result<()> {
        let upload = match asked.upload {
            Framing::Length(length) => self.take(length).await?,
            Framing::Chunked => self.chunks(asked).await?,
        };
        if hash(&upload) != asked.checksum {
            self.wrong(Wrong::Desync, "another upload", asked);
        }
        Ok(())
    }

    async fn chunks(&mut self, asked: &Asked) -> io::Result<Vec<u8>> {
        let mut upload = Vec::new();
        loop {
            let line = loop {
                if let Some(end) = self.arrived.windows(2).position(|it| it == b"\r\n") {
                    break self.take(end + 2).await?;
                }
                self.more().await?;
            };
            let size = str::from_utf8(&line).ok();
            let size = size.and_then(|it| usize::from_str_radix(it.trim_end(), 16).ok());
            let Some(size) = size else {
                self.wrong(Wrong::Desync, "no chunk", asked);
                return Err(io::ErrorKind::InvalidData.into());
            };
            let chunk = self.take(size + 2).await?;
            upload.extend(&chunk[..size]);
            if size == 0 {
                return Ok(upload);
            }
        }
    }

    async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.arrived.len() < length {
            self.more().await?;
        }
        Ok(self.arrived.drain(..length).collect())
    }

    /// Waits for more bytes; an error at the end.
    async fn more(&mut self) -> io::Result<()> {
        match self.fill().await? {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.line.write_all(bytes).await?;
        self.line.flush().await
    }

    /// Waits for more bytes; false at the end.
    async fn fill(&mut self) -> io::Result<bool> {
        Ok(self.line.read_buf(&mut self.arrived).await? > 0)
    }

    fn did(&self, temper: Temper) {
        self.house.ledger.did(temper);
    }

    fn wrong(&self, what: Wrong, words: &str, asked: &Asked) {
        let Asked {
            temper, id, method, ..
        } = asked;
        let words = format!("{words}: {method} {} {id}", temper.name());
        self.house.ledger.wrong(what, words);
    }
}

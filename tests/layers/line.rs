//! A connection that is not HTTP: one line asked, one line answered.

use std::io;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tower::util::MapResponse;
use tower_keep_alive::{
    custom::{KeyRef, Lifespan, Liveness, Poolable, Target},
    layers::{Checkin, Checkout},
};

use crate::support::{Conn, InMemory, MemoryStream, Server};

/// One question at a time. Nobody reads it while it is idle, so only a look tells whether it was closed.
#[derive(Debug)]
pub(crate) struct Line {
    stream: MemoryStream,
    waiting_for_answer: bool,
    broken: bool,
    // After the transport, so that it is dropped after it.
    lifespan: Lifespan,
}

impl Line {
    pub(crate) fn new(stream: MemoryStream) -> Self {
        Self {
            stream,
            waiting_for_answer: false,
            broken: false,
            lifespan: Lifespan::new(),
        }
    }

    pub(crate) async fn ask(&mut self, question: &str) -> io::Result<String> {
        self.waiting_for_answer = true;
        let answer = self.exchange(question).await;
        self.waiting_for_answer = false;
        self.broken |= answer.is_err();
        answer
    }

    async fn exchange(&mut self, question: &str) -> io::Result<String> {
        self.stream.write_all(question.as_bytes()).await?;
        self.stream.write_all(b"\n").await?;
        let mut answer = Vec::new();
        loop {
            match self.stream.read_u8().await? {
                b'\n' => return String::from_utf8(answer).map_err(io::Error::other),
                byte => answer.push(byte),
            }
        }
    }
}

impl Poolable for Line {
    fn is_open(&self) -> bool {
        !self.broken
    }

    fn poll_free(&mut self, _: &mut Context<'_>) -> Poll<()> {
        // An answer that nobody waited for would be the next one's.
        self.broken |= self.waiting_for_answer;
        Poll::Ready(())
    }

    fn probe(&mut self) -> Liveness {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        let stream = std::pin::Pin::new(&mut self.stream);
        match stream.poll_read(&mut cx, &mut ReadBuf::new(&mut byte)) {
            Poll::Pending => Liveness::Open,
            Poll::Ready(_) => Liveness::Dead,
        }
    }

    fn lifespan(&self) -> &Lifespan {
        &self.lifespan
    }

    fn lifespan_mut(&mut self) -> &mut Lifespan {
        &mut self.lifespan
    }
}

/// A target that is no URI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shard(pub(crate) u16);

impl Target for Shard {
    fn key(&self) -> KeyRef<'_> {
        KeyRef::new("line", "shard.internal", Some(self.0))
    }
}

pub(crate) type Maker = MapResponse<InMemory, fn(MemoryStream) -> Line>;

/// What gives leases of lines.
pub(crate) type Lines = Checkin<Checkout<Maker, Line>>;

pub(crate) fn maker(server: &Server) -> Maker {
    MapResponse::new(server.connector(), Line::new as _)
}

/// Answers `hello` with `hello!`; to `bye` it closes, to `hush` it says nothing.
pub(crate) async fn answer(mut conn: Conn) {
    let mut asked = Vec::new();
    loop {
        let bytes = conn.read().await;
        if bytes.is_empty() {
            return;
        }
        asked.extend(bytes);
        while let Some(end) = asked.iter().position(|&byte| byte == b'\n') {
            let line: Vec<_> = asked.drain(..=end).collect();
            let line = String::from_utf8(line).expect("text");
            match line.trim_end() {
                "bye" => {
                    conn.send("bye!\n").await;
                    return conn.fin().await;
                }
                "hush" => {}
                line => conn.send(format!("{line}!\n")).await,
            }
        }
    }
}

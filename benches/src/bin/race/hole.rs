//! What comes over an idle connection while every thread of the runtime is busy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use http::Method;
use socket2::SockRef;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::crowd::request;
use crate::peer::Peer;

/// Far longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the server does to a connection that is idle.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Surprise {
    /// Writes this, as some servers do before they close (408), or by mistake.
    Answer(&'static str),
    Fin,
    Rst,
}

pub(crate) const SURPRISES: [(&str, Surprise); 4] = [
    (
        "a stray 200",
        Surprise::Answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"),
    ),
    (
        "a stray 408",
        Surprise::Answer(
            "HTTP/1.1 408 Request Timeout\r\nContent-Length: 5\r\nConnection: close\r\n\r\nstray",
        ),
    ),
    ("FIN", Surprise::Fin),
    ("RST", Surprise::Rst),
];

/// The runtimes: the name, and the number of worker threads.
pub(crate) const RUNTIMES: [(&str, usize); 2] = [("current_thread", 0), ("multi_thread(2)", 2)];

/// The second request of each run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// It got the stray answer.
    pub(crate) poisoned: usize,
    /// It got none.
    pub(crate) failed: usize,
}

/// `runs` times with a new client: a request, a surprise while the runtime is busy, and a request of `method`.
pub(crate) fn measure<P: Peer>(
    method: &Method,
    surprise: Surprise,
    workers: usize,
    runs: usize,
) -> Outcome {
    let runtime = match workers {
        0 => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build(),
    };
    let runtime = runtime.expect("a runtime");
    let server = Server::start(surprise);
    let mut outcome = Outcome::default();
    for _ in 0..runs {
        let peer = P::new();
        runtime.block_on(async {
            let first = request(&Method::GET, server.url("/first"));
            let body = peer.send(first).await.expect("nothing is wrong yet");
            assert_eq!(body, "/first");
            // The client makes its connection idle.
            tokio::time::sleep(Duration::from_millis(2)).await;
            while_busy(&runtime, workers, || {
                server.surprise();
                std::thread::sleep(Duration::from_micros(1_500));
            });
            let second = peer.send(request(method, server.url("/second")));
            match timeout(PATIENCE, second).await {
                Ok(Ok(body)) if body == "/second" => {}
                Ok(Ok(_)) => outcome.poisoned += 1,
                // No answer, or none in time: a request can be forgotten that is sent just when its connection ends.
                Ok(Err(_)) | Err(_) => outcome.failed += 1,
            }
        });
    }
    outcome
}

/// Runs `event` on this thread, which is the runtime's if it has no other, while its workers do something else.
fn while_busy(runtime: &Runtime, workers: usize, event: impl FnOnce()) {
    let release = Arc::new(Barrier::new(workers + 1));
    let (running, is_running) = channel();
    for _ in 0..workers {
        let (running, release) = (running.clone(), release.clone());
        runtime.spawn(async move {
            let _ = running.send(());
            release.wait();
        });
        // One after the other: two that lie in the queue of one worker would wait for each other.
        let found = is_running.recv_timeout(5 * PATIENCE);
        found.expect("another worker is free");
    }
    event();
    release.wait();
}

/// Answers each request with its target. The connection of a request for `/first` then waits for its surprise.
struct Server {
    addr: SocketAddr,
    go: Sender<()>,
    done: Receiver<()>,
}

impl Server {
    /// Its threads end with their connections; the one that accepts them, with the program.
    fn start(surprise: Surprise) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let (go, gone) = channel();
        let (did, done) = channel();
        let gone = Arc::new(Mutex::new(gone));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("connections can be accepted");
                let (gone, did) = (gone.clone(), did.clone());
                std::thread::spawn(move || serve(stream, surprise, &gone, &did));
            }
        });
        Self { addr, go, done }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Returns when the server has done it.
    fn surprise(&self) {
        self.go.send(()).expect("the server runs");
        self.done
            .recv_timeout(5 * PATIENCE)
            .expect("the server runs");
    }
}

fn serve(mut stream: TcpStream, surprise: Surprise, go: &Mutex<Receiver<()>>, did: &Sender<()>) {
    while let Some(target) = read_request(&mut stream) {
        let length = target.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
        if target != "/first" {
            continue;
        }
        if go.lock().expect("nobody panics with it").recv().is_err() {
            return;
        }
        let stays = match surprise {
            Surprise::Answer(answer) => {
                let written = stream.write_all(answer.as_bytes());
                written.expect("the connection is open");
                Some(stream)
            }
            Surprise::Fin => None,
            Surprise::Rst => {
                let lingers = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                lingers.expect("the socket is open");
                None
            }
        };
        let _ = did.send(());
        let Some(it) = stays else {
            return;
        };
        stream = it;
    }
}

/// The target of the next request.
fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut arrived = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let text = String::from_utf8_lossy(&arrived);
        let whole = match &*text {
            it if it.starts_with("POST") => it.ends_with("\r\n\r\nonce only"),
            it => it.ends_with("\r\n\r\n"),
        };
        if whole {
            return text.split(' ').nth(1).map(str::to_owned);
        }
        match stream.read(&mut buffer) {
            Ok(length @ 1..) => arrived.extend_from_slice(&buffer[..length]),
            _ => return None,
        }
    }
}

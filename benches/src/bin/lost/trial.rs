//! What servers do, and what became of the requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Version};
use tokio::time::timeout;
use tower_keep_alive_benches::frames::{Behaviour, GoAway};

use crate::peer::{OneShot, Peer};
use crate::server::Server;

/// One kind of server.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub(crate) name: &'static str,
    pub(crate) behaviour: Behaviour,
    pub(crate) requests: usize,
    pub(crate) callers: usize,
    /// What has no answer by then is lost.
    patience: Duration,
    /// How many may be lost, by whoever does all that can be done.
    at_most: usize,
    /// For the agent alone: how old its connections may be.
    pub(crate) ttl: Option<Duration>,
}

/// All of them, for so many requests.
pub(crate) fn trials(requests: usize) -> Vec<Trial> {
    let plain = Behaviour {
        delay: Duration::from_millis(2),
        ..Behaviour::default()
    };
    let trial = |name, change: fn(&mut Behaviour)| {
        let mut behaviour = plain.clone();
        change(&mut behaviour);
        Trial {
            name,
            behaviour,
            requests,
            callers: 100,
            patience: Duration::from_secs(10),
            at_most: 0,
            ttl: None,
        }
    };
    let mut lowered = trial("limit lowered to 1", |it| it.limit = Some(100));
    lowered.behaviour.limit_after = Some((requests * 9 / 10, 1));
    let mut black_hole = trial("black hole", |it| it.silent_after = Some(200));
    black_hole.requests = requests.min(1_000);
    black_hole.callers = 50;
    black_hole.patience = Duration::from_millis(500);
    black_hole.at_most = black_hole.callers;
    let mut aged = trial("age of 100 ms", |_| {});
    aged.ttl = Some(Duration::from_millis(100));
    vec![
        trial("GOAWAY, last stream named", |it| {
            it.go_away = Some((100, GoAway::Named));
        }),
        trial("GOAWAY, 20 streams back", |it| {
            it.go_away = Some((100, GoAway::Back(20)));
        }),
        trial("GOAWAY, announced first", |it| {
            it.go_away = Some((100, GoAway::Announced(Duration::from_millis(1))));
        }),
        trial("limit of 10", |it| it.limit = Some(10)),
        trial("limit of 10, and GOAWAY 20 back", |it| {
            it.limit = Some(10);
            it.go_away = Some((100, GoAway::Back(20)));
        }),
        trial("limit of 10, told 50 ms late", |it| {
            it.limit = Some(10);
            it.settings_after = Duration::from_millis(50);
        }),
        lowered,
        trial("10 % refused", |it| it.refuse_every = Some(10)),
        black_hole,
        aged,
    ]
}

/// What became of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Without an answer.
    pub(crate) lost: usize,
    /// Answered, by the answer to another request.
    pub(crate) wrong: usize,
    /// By the server's log.
    pub(crate) beyond_limit: usize,
    pub(crate) executed_twice: usize,
    pub(crate) connections: usize,
    /// Of what was answered.
    pub(crate) p50: Duration,
    pub(crate) took: Duration,
}

impl Trial {
    pub(crate) fn run<P: Peer>(&self, peer: P, method: &Method) -> Outcome {
        let server = Server::start(self.behaviour.clone());
        // The callers' own, so that none shares threads with the server.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let begun = Instant::now();
        let next = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..self.callers)
            .map(|_| {
                let url = format!("http://{}", server.addr);
                let (next, method) = (next.clone(), method.clone());
                runtime.spawn(self.clone().call(peer.clone(), method, url, next))
            })
            .collect();
        let (mut lost, mut wrong, mut times) = (0, 0, Vec::new());
        for caller in callers {
            let its = runtime.block_on(caller).expect("callers do not panic");
            lost += its.0;
            wrong += its.1;
            times.extend(its.2);
        }
        times.sort();
        let executed_twice = server.log.executed_twice(method.as_str());
        server.log.seen(|seen| Outcome {
            lost,
            wrong,
            beyond_limit: seen.beyond_limit,
            executed_twice,
            connections: seen.connections,
            p50: times.get(times.len() / 2).copied().unwrap_or_default(),
            took: begun.elapsed(),
        })
    }

    /// What may not be.
    pub(crate) fn faults(&self, outcome: Outcome) -> Vec<String> {
        let parts = [
            ("lost", outcome.lost, self.at_most),
            ("answered by another's answer", outcome.wrong, 0),
            ("beyond the limit", outcome.beyond_limit, 0),
            ("carried out twice", outcome.executed_twice, 0),
        ];
        let too_many = parts.into_iter().filter(|(_, count, most)| count > most);
        too_many
            .map(|(what, count, _)| format!("{count} {what}"))
            .collect()
    }

    async fn call<P: Peer>(
        self,
        peer: P,
        method: Method,
        url: String,
        next: Arc<AtomicUsize>,
    ) -> (usize, usize, Vec<Duration>) {
        let (mut lost, mut wrong, mut times) = (0, 0, Vec::new());
        loop {
            let id = next.fetch_add(1, Ordering::Relaxed);
            if id >= self.requests {
                return (lost, wrong, times);
            }
            let path = format!("/{id}");
            let begun = Instant::now();
            let response = peer.send(request(&method, format!("{url}{path}")));
            match timeout(self.patience, response).await {
                Ok(Ok(body)) if body == path => times.push(begun.elapsed()),
                Ok(Ok(_)) => wrong += 1,
                Ok(Err(_)) | Err(_) => lost += 1,
            }
        }
    }
}

fn request(method: &Method, url: String) -> Request<OneShot> {
    let content = match *method {
        Method::POST => Bytes::from_static(b"once only"),
        _ => Bytes::new(),
    };
    let request = Request::builder().method(method).uri(url);
    let request = request.version(Version::HTTP_2).body(OneShot::new(content));
    request.expect("a valid request")
}

//! Some seconds of one agent with limits of its own: many callers, and then the accounts.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use http::Request;
use tokio::runtime::Handle;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::retry::RetryLayer;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_keep_alive::AgentHandle;
use tower_keep_alive::connect::TlsLayer;
use tower_keep_alive::connect::rustls::ClientConfig;
use tower_keep_alive::retry::ReusedReset;

use crate::caller::{Caller, Client};
use crate::house::House;
use crate::ledger::{Wrong, count, lock};
use crate::limits::PoolConfig;
use crate::names::{Names, half_serve};
use crate::temper::Temper;
use crate::upload::Upload;
use crate::wire::{Alive, Connector, Wire};

const CALLERS: usize = 24;

/// What comes to rest does so within this.
const REST: Duration = Duration::from_secs(15);

/// Every request's number, from 1.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// What rounds are made in.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) house: Arc<House>,
    /// The runtime of the servers.
    pub(crate) servers: Handle,
    pub(crate) hosts: Vec<String>,
    pub(crate) config: Arc<ClientConfig>,
}

/// Runs an agent for so long, on the runtime that this is polled on.
pub(crate) async fn round(place: Place, seed: u64, time: Duration) {
    let mut rng = Rng::with_seed(seed);
    let limits = PoolConfig::any(&mut rng);
    let ledger = place.house.ledger.clone();
    let alive = Arc::new(Alive::default());
    let layer = limits.layer();
    let handle = layer.handle();
    let (calls, tries) = (ledger.clone(), ledger.clone());
    let above = ServiceBuilder::new()
        .map_request(move |request| {
            count(&calls.calls);
            request
        })
        .layer(RetryLayer::new(ReusedReset::new()))
        .map_request(move |request: Request<Upload>| {
            count(&tries.tries);
            request
        });
    let names = limits.has_names.then(Names::new);
    let client = match &names {
        // Which address a transport leads to is known of the crate's own.
        Some(names) => {
            let connector = TlsLayer::with_config(place.config.clone()).layer(names.connector());
            Client::new(above.layer(layer).service(connector))
        }
        None => {
            let connector = Connector {
                wires: place.house.wires.clone(),
                alive: alive.clone(),
                config: place.config.clone(),
            };
            let layer = layer.probe_with(Wire::probe);
            Client::new(above.layer(layer).service(connector))
        }
    };
    let mut callers = JoinSet::new();
    let end = Instant::now() + time;
    if let Some(names) = &names {
        callers.spawn(names.clone().change(rng.fork(), end, ledger.clone()));
    }
    let hosts = match limits.is_calm {
        true => vec![place.hosts[rng.usize(..place.hosts.len())].clone()],
        false => place.hosts.clone(),
    };
    for _ in 0..CALLERS {
        let mut caller = Caller {
            client: client.clone(),
            limits: limits.clone(),
            house: place.house.clone(),
            hosts: hosts.clone(),
            names: names.clone(),
            rng: rng.fork(),
        };
        callers.spawn(async move {
            while Instant::now() < end {
                caller.one(NEXT.fetch_add(1, Ordering::Relaxed)).await;
                if !caller.limits.is_calm && caller.rng.bool() {
                    sleep(Duration::from_micros(caller.rng.u64(..4_000))).await;
                }
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        if let Err(error) = done {
            ledger.wrong(Wrong::Failed, format!("a caller: {error}"));
        }
        if rng.u8(..8) == 0 {
            handle.close_idle();
        }
    }
    let accounts = Accounts {
        place: &place,
        limits: &limits,
        handle: &handle,
        alive: &alive,
        seed,
    };
    accounts.rest().await;
    accounts.slots(&client).await;
    accounts.rest().await;
    let status = handle.status();
    ledger.reused.fetch_add(status.reused, Ordering::Relaxed);
    ledger.stale.fetch_add(status.stale, Ordering::Relaxed);
    match rng.u8(..3) {
        0 if timeout(REST, handle.drain()).await.is_err() => {
            accounts.wrong(Wrong::Leak, "it does not drain");
        }
        1 => handle.destroy(),
        _ => {}
    }
    drop(client);
    accounts.end().await;
}

/// What has to be right when nobody asks for anything.
struct Accounts<'a> {
    place: &'a Place,
    limits: &'a PoolConfig,
    handle: &'a AgentHandle,
    alive: &'a Alive,
    seed: u64,
}

impl Accounts<'_> {
    /// Nobody waits, nothing is in use, and every connection is accounted for.
    async fn rest(&self) {
        let is_at_rest = || {
            let status = self.handle.status();
            status.pending.is_empty()
                && status.active.is_empty()
                && half_serve(&status)
                && status.created == status.closed + status.detached + status.open() as u64
                && self.alive.all.load(Ordering::Relaxed) <= status.open()
        };
        if !becomes(is_at_rest).await {
            self.wrong(
                Wrong::Leak,
                format_args!("no rest: {}", self.handle.status()),
            );
        }
        // Whoever takes a connection out of the limits has one more than they say.
        if self.limits.is_loose {
            return;
        }
        let most = self.alive.most.load(Ordering::Relaxed);
        let of_host = self.alive.most_per_host.load(Ordering::Relaxed);
        if self.limits.total.is_some_and(|total| most > total)
            || self.limits.per_host.is_some_and(|max| of_host > max)
        {
            self.wrong(
                Wrong::TooMany,
                format_args!("{most} transports, {of_host} of one host"),
            );
        }
    }

    /// As many connections as the limits allow can be in use at once: each place is there, once.
    async fn slots(&self, client: &Client) {
        // So that nobody has to wait for room. Where connections are made ahead, others take their place.
        self.handle.close_idle();
        let is_empty = || self.limits.min_idle.is_some() || self.handle.status().open() == 0;
        if !becomes(is_empty).await {
            return self.wrong(
                Wrong::Leak,
                format_args!("still open: {}", self.handle.status()),
            );
        }
        let room = self.limits.room();
        let host = &self.place.hosts[0];
        let barriers = &self.place.house.barriers;
        lock(barriers).insert(self.seed, Arc::new(Barrier::new(room)));
        let mut held = JoinSet::new();
        for _ in 0..room {
            let uri = format!("{host}/{}/{}/10", Temper::Hold.name(), self.seed);
            let body = Upload::new(Vec::new(), 1, Duration::ZERO);
            let request = Request::get(uri).body(body).expect("the parts are right");
            held.spawn(timeout(
                Duration::from_secs(10),
                client.clone().oneshot(request),
            ));
        }
        let answers = held.join_all().await;
        lock(barriers).remove(&self.seed);
        let answers = answers.into_iter().filter(|it| matches!(it, Ok(Ok(_))));
        let answered = answers.count();
        for _ in answered..room {
            self.wrong(Wrong::SlotLost, format_args!("{answered} of {room} places"));
        }
    }

    /// Everything is closed, and no task is left.
    async fn end(&self) {
        let tasks = Handle::current().metrics();
        let is_closed = || {
            let status = self.handle.status();
            status.open() == 0
                && status.created == status.closed + status.detached
                && self.alive.all.load(Ordering::Relaxed) == 0
                && tasks.num_alive_tasks() == 0
        };
        if !becomes(is_closed).await {
            self.wrong(
                Wrong::Leak,
                format_args!("not closed: {}", self.handle.status()),
            );
        }
    }

    fn wrong(&self, what: Wrong, words: impl fmt::Display) {
        let words = format!("{words}; seed {}, {:?}", self.seed, self.limits);
        self.place.house.ledger.wrong(what, words);
    }
}

/// Whether it becomes true in time.
pub(crate) async fn becomes(mut is: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !is() {
        if begun.elapsed() > REST {
            return false;
        }
        sleep(Duration::from_millis(1)).await;
    }
    true
}

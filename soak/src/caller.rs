//! One request, and whether what came of it is right.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crc32fast::Hasher;
use fastrand::Rng;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use tower_keep_alive::{
    Body, Error, TimeoutKind,
    extensions::{InactivityTimeout, OneShot},
};

use crate::house::House;
use crate::ledger::{Wrong, count};
use crate::limits::PoolConfig;
use crate::names::Names;
use crate::temper::{Temper, checksum, content};
use crate::upload::Upload;

/// An answer takes milliseconds; what has none by then has been forgotten.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) type Client = BoxCloneSyncService<Request<Upload>, Response<Body>, Error>;

/// Sends requests, one after the other.
pub(crate) struct Caller {
    pub(crate) client: Client,
    pub(crate) limits: PoolConfig,
    pub(crate) house: Arc<House>,
    /// `http://127.0.0.1:1234`, and the like.
    pub(crate) hosts: Vec<String>,
    /// The addresses of the hosts' names, if they change.
    pub(crate) names: Option<Names>,
    pub(crate) rng: Rng,
}

/// What became of a request that nothing is wrong with.
enum Outcome {
    Whole,
    Left,
    Failed,
    Refused,
}

type Verdict = Result<Outcome, (Wrong, String)>;

impl Caller {
    /// One request of any kind.
    pub(crate) async fn one(&mut self, id: u64) {
        let is_calm = self.limits.is_calm && self.rng.u8(..100) > 0;
        let temper = match Temper::any(&mut self.rng) {
            _ if is_calm => Temper::Plain,
            Temper::Upgrade if !self.limits.is_loose => Temper::Plain,
            temper => temper,
        };
        let leaves_at = (!is_calm && self.rng.u8(..8) == 0).then(|| {
            let most = if temper == Temper::Stall {
                50_000
            } else {
                4_000
            };
            Duration::from_micros(self.rng.u64(..most))
        });
        count(&self.house.ledger.requests);
        let ledger = self.house.ledger.clone();
        let outcome = timeout(leaves_at.unwrap_or(PATIENCE), self.exchange(temper, id)).await;
        let words = |words: &str| format!("{words}: {} {id}", temper.name());
        match outcome {
            Ok(Ok(Outcome::Whole)) => count(&ledger.whole),
            Ok(Ok(Outcome::Left)) => count(&ledger.left),
            Ok(Ok(Outcome::Failed)) => count(&ledger.failed),
            Ok(Ok(Outcome::Refused)) => count(&ledger.refused),
            Ok(Err((what, why))) => ledger.wrong(what, words(&why)),
            Err(_) if leaves_at.is_some() => count(&ledger.cancelled),
            Err(_) => ledger.wrong(Wrong::Hang, words("no answer and no error")),
        }
    }

    /// Sends it, reads the answer, and looks at both.
    fn exchange(&mut self, temper: Temper, id: u64) -> impl Future<Output = Verdict> + Send + '_ {
        let length = match self.rng.u8(..20) {
            0 => 0,
            1 => self.rng.usize(..150_000),
            _ => self.rng.usize(..2_000),
        };
        let method = match self.rng.u8(..6) {
            _ if temper == Temper::Upgrade => Method::GET,
            _ if temper == Temper::Early => Method::PUT,
            0 => Method::POST,
            1 => Method::PUT,
            2 => Method::HEAD,
            _ => Method::GET,
        };
        let request = self.request(temper, id, length, &method);
        let is_name = request.uri().host() == Some("localhost");
        let taken = request.body().taken();
        let enough = match self.rng.u8(..10) {
            0 if !self.limits.is_calm => length / 2,
            _ => usize::MAX,
        };
        let detaches = self.limits.is_loose && self.rng.u8(..100) == 0;
        async move {
            let began = Instant::now();
            let gone = self.names.as_ref().map_or(Vec::new(), Names::gone);
            let mut response = match self.client.clone().oneshot(request).await {
                Ok(response) => response,
                // No answer was had before lookups began to fail.
                Err(error) if self.names.is_some() && error.is_dns() => return Ok(Outcome::Failed),
                Err(error) => return may_fail(error, temper, &method),
            };
            let own = response.headers().get("x-request-id");
            let own = own.and_then(|it| it.to_str().ok()?.parse().ok());
            if own != Some(id) {
                return Err((Wrong::Mismatch, format!("an answer to {own:?}")));
            }
            let info = response.body().connection();
            if let Some(excess) = self.limits.excess(info, began.elapsed()) {
                return Err((Wrong::Misused, excess));
            }
            // An address may have come back since.
            let still_gone = self.names.as_ref().map_or(Vec::new(), Names::gone);
            let address = info.remote_addr().map(|it| it.ip());
            let is_gone = |gone: &[SocketAddr]| gone.iter().any(|it| Some(it.ip()) == address);
            if is_name && is_gone(&gone) && is_gone(&still_gone) {
                return Err((
                    Wrong::Misused,
                    format!("{address:?} is gone, {info:?}, with {:?}", self.limits),
                ));
            }
            if detaches {
                info.detach();
            }
            if temper == Temper::Upgrade {
                return echoed(response, id).await;
            }
            let whole = if method == Method::HEAD { 0 } else { length };
            let (mut read, mut hasher) = (0, Hasher::new());
            while read < enough {
                match response.body_mut().frame().await {
                    None => {
                        if temper == Temper::Early && !taken.load(Ordering::SeqCst) {
                            self.house.cut_short(id);
                        }
                        return match read == whole && hasher.finalize() == checksum(id, whole) {
                            true => Ok(Outcome::Whole),
                            false => Err((Wrong::Mismatch, format!("{read} bytes of {whole}"))),
                        };
                    }
                    Some(Err(error)) => return may_fail(error, temper, &Method::GET),
                    Some(Ok(frame)) => {
                        let data = frame.into_data().unwrap_or_default();
                        self.house
                            .ledger
                            .bytes
                            .fetch_add(data.len() as u64, Ordering::Relaxed);
                        hasher.update(&data);
                        read += data.len();
                    }
                }
            }
            Ok(Outcome::Left)
        }
    }

    fn request(
        &mut self,
        temper: Temper,
        id: u64,
        length: usize,
        method: &Method,
    ) -> Request<Upload> {
        let host = &self.hosts[self.rng.usize(..self.hosts.len())];
        let uri = format!("{host}/{}/{id}/{length}", temper.name());
        let uploads = [Method::POST, Method::PUT].contains(method);
        let upload = match self.rng.u8(..10) {
            _ if !uploads => Vec::new(),
            0 => content(id, 200_000),
            _ => content(id, 1 + self.rng.usize(..3_000)),
        };
        let pause = match (temper, self.rng.u8(..4)) {
            // One that never ends, and one that does after its answer: no other request may be put behind either.
            (Temper::Early, 0) => Duration::from_secs(3_600),
            (Temper::Early, 1) => Duration::from_millis(1),
            (_, 0) => Duration::from_micros(300),
            _ => Duration::ZERO,
        };
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header("x-crc32", crc32fast::hash(&upload));
        if temper == Temper::Upgrade {
            request = request
                .header("connection", "upgrade")
                .header("upgrade", "echo");
        }
        if temper == Temper::Stall {
            request = request.extension(InactivityTimeout(Duration::from_millis(100)));
        }
        if self.limits.is_loose && self.rng.u8(..50) == 0 {
            request = request.extension(OneShot);
        }
        let piece = 1 + upload.len() / 4;
        let body = match Upload::new(upload, piece, pause) {
            body if uploads && self.rng.bool() => body.chunked(),
            body => body,
        };
        request.body(body).expect("the parts are right")
    }
}

/// Speaks with the other end of an upgrade.
async fn echoed(response: Response<Body>, id: u64) -> Verdict {
    let failed = |error: &dyn std::fmt::Display| (Wrong::Failed, format!("upgrade: {error}"));
    let mut line = match hyper::upgrade::on(response).await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => return Err(failed(&error)),
    };
    let mut expected = b"hello".to_vec();
    let words = content(id, 1_000);
    expected.extend(&words);
    let mut echo = vec![0; expected.len()];
    let speak = async {
        line.write_all(&words).await?;
        line.flush().await?;
        line.read_exact(&mut echo).await
    };
    speak.await.map_err(|error| failed(&error))?;
    match echo == expected {
        true => Ok(Outcome::Whole),
        false => Err((Wrong::Mismatch, "another echo".to_owned())),
    }
}

/// Whether a failure is what this request may come to.
fn may_fail(error: Error, temper: Temper, method: &Method) -> Verdict {
    if error.is_queue_full() || error.timeout_kind() == Some(TimeoutKind::Checkout) {
        return Ok(Outcome::Refused);
    }
    // A POST is not sent twice; an idle connection may have ended just then.
    let is_race = *method == Method::POST && error.is_reused() && error.is_reset();
    match temper.may_fail() || is_race {
        true => Ok(Outcome::Failed),
        false => Err((Wrong::Failed, format!("{method}: {error:?}"))),
    }
}

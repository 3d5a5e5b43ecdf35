//! From the addresses of a host to a connection with one of them.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// The least time between two attempts: RFC 8305, section 5 allows no less.
pub(super) const LEAST_DELAY: Duration = Duration::from_millis(10);

/// When the attempts of one connect begin, and when they are given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How long an attempt is alone before the next begins beside it. `None`: attempts are made one after the other.
    pub(super) delay: Option<Duration>,
    /// When the whole connect is given up by whoever waits for it.
    pub(super) deadline: Option<Instant>,
}

impl Pace {
    /// When the next attempt is to begin, if the newest does not fail first: as the delay says, but sooner if `left` more
    /// addresses would not have equal parts of the time that is left. `None`: not before the newest has failed.
    fn next(self, now: Instant, left: usize) -> Option<Instant> {
        let parts = u32::try_from(left + 1).unwrap_or(u32::MAX);
        let part = self.deadline.map(|deadline| {
            let rest = deadline.saturating_duration_since(now);
            (rest / parts).max(LEAST_DELAY)
        });
        let delay = match (self.delay, part) {
            (Some(delay), Some(part)) => delay.min(part),
            (delay, part) => delay.or(part)?,
        };
        now.checked_add(delay)
    }
}

/// The order to try addresses in: the resolver's, but that the two families take turns, beginning with that of its first
/// address (RFC 8305, section 4, with a "First Address Family Count" of 1).
pub(super) fn in_order(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv4) else {
        return VecDeque::new();
    };
    let (preferred, others): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv4() == first);
    let mut others = others.into_iter();
    let mut order = VecDeque::new();
    for address in preferred {
        order.push_back(address);
        order.extend(others.next());
    }
    order.extend(others);
    order
}

/// The addresses that were tried in vain, in the order of their failures.
pub(super) type Failed = Vec<(SocketAddr, io::Error)>;

/// Connects to the addresses by `connect`, in their order, until the first connection is there. The next attempt begins
/// when one fails, or when the newest has not succeeded for as long as `pace` says. When one has succeeded, those that are
/// still under way are dropped.
///
/// # Errors
///
/// The errors of all addresses.
pub(super) async fn dial<F, S>(
    addresses: VecDeque<SocketAddr>,
    pace: Pace,
    connect: impl FnMut(SocketAddr) -> F,
) -> Result<S, Failed>
where
    F: Future<Output = io::Result<S>>,
{
    let mut dial = Dial {
        addresses,
        pace,
        connect,
        attempts: Vec::new(),
        failed: Vec::new(),
        is_due: true,
        timer: None,
    };
    poll_fn(|cx| dial.poll(cx)).await
}

struct Dial<F, N> {
    /// Those that were not tried yet.
    addresses: VecDeque<SocketAddr>,
    pace: Pace,
    connect: N,
    /// Those under way, the oldest first.
    attempts: Vec<Attempt<F>>,
    failed: Failed,
    /// The next attempt begins at once.
    is_due: bool,
    /// The next attempt begins then.
    timer: Option<Pin<Box<Sleep>>>,
}

struct Attempt<F> {
    address: SocketAddr,
    begun: Instant,
    future: Pin<Box<F>>,
}

impl<F, N, S> Dial<F, N>
where
    F: Future<Output = io::Result<S>>,
    N: FnMut(SocketAddr) -> F,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<S, Failed>> {
        loop {
            if let Some(stream) = self.poll_attempts(cx) {
                return Poll::Ready(Ok(stream));
            }
            if self.addresses.is_empty() {
                return match self.attempts.is_empty() {
                    true => Poll::Ready(Err(mem::take(&mut self.failed))),
                    false => Poll::Pending,
                };
            }
            let timer = self.timer.as_mut();
            if !self.is_due && !timer.is_some_and(|it| it.as_mut().poll(cx).is_ready()) {
                return Poll::Pending;
            }
            self.begin_next();
        }
    }

    fn poll_attempts(&mut self, cx: &mut Context<'_>) -> Option<S> {
        let mut at = 0;
        while let Some(attempt) = self.attempts.get_mut(at) {
            match attempt.future.as_mut().poll(cx) {
                Poll::Ready(Ok(stream)) => return Some(stream),
                Poll::Ready(Err(error)) => {
                    let Attempt { address, .. } = self.attempts.remove(at);
                    self.failed.push((address, error));
                    self.is_due = true;
                }
                Poll::Pending => at += 1,
            }
        }
        None
    }

    fn begin_next(&mut self) {
        let begun = Instant::now();
        if self.pace.delay.is_none() {
            let given_up = self.attempts.drain(..).map(|attempt| {
                let after = begun.saturating_duration_since(attempt.begun);
                let error = format!("no answer within {after:?}");
                (
                    attempt.address,
                    io::Error::new(io::ErrorKind::TimedOut, error),
                )
            });
            self.failed.extend(given_up);
        }
        let Some(address) = self.addresses.pop_front() else {
            return;
        };
        self.attempts.push(Attempt {
            address,
            begun,
            future: Box::pin((self.connect)(address)),
        });
        self.is_due = false;
        self.timer = match self.addresses.len() {
            0 => None,
            left => (self.pace.next(begun, left)).map(|at| Box::pin(sleep_until(at))),
        };
    }
}

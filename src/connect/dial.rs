//! Connects to one of the addresses of a host.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// The least time between two attempts (RFC 8305 §5).
pub(super) const LEAST_DELAY: Duration = Duration::from_millis(10);

/// When the attempts of one connect begin, and when they are cancelled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How long to wait for an attempt before the next begins beside it. `None`: attempts do not overlap.
    pub(super) delay: Option<Duration>,
    /// When the caller cancels the whole connect.
    pub(super) deadline: Option<Instant>,
}

impl Pace {
    /// When the next attempt begins, unless the latest one fails first: after the delay, or sooner if `left` further
    /// addresses would not get equal parts of the remaining time. `None`: when the latest one has failed.
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

/// The order in which to try addresses: the resolver's, except that the two families take turns, beginning with the
/// family of the first address (RFC 8305 §4, with a "First Address Family Count" of 1).
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

/// The addresses that failed, in the order of their failures.
pub(super) type Failed = Vec<(SocketAddr, io::Error)>;

/// Connects to the addresses by `connect`, in their order, until the first attempt succeeds. The next attempt begins
/// when one fails, or when the latest has not succeeded within the delay of `pace`. When one succeeds, all others are
/// dropped.
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
    /// Addresses that were not tried yet.
    addresses: VecDeque<SocketAddr>,
    pace: Pace,
    connect: N,
    /// Attempts under way, the oldest first.
    attempts: Vec<Attempt<F>>,
    failed: Failed,
    /// The next attempt begins at once.
    is_due: bool,
    /// When the next attempt begins.
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

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use super::*;

    /// What becomes of an attempt, and after how many milliseconds.
    #[derive(Clone, Copy)]
    enum Fate {
        Connects(u64),
        Fails(u64),
        Hangs,
    }
    use Fate::{Connects, Fails, Hangs};

    /// A dial over addresses with these fates: the number of the address that is connected to, or the numbers of those that
    /// failed; when it was over; and when which attempt began, in milliseconds.
    struct Run {
        result: Result<usize, Vec<(usize, io::ErrorKind)>>,
        took: u64,
        begun: Vec<(usize, u64)>,
    }

    async fn run(fates: &[Fate], delay: Option<u64>, limit: Option<u64>) -> Run {
        let start = Instant::now();
        let since = || u64::try_from(start.elapsed().as_millis()).unwrap();
        let address = |at| SocketAddr::from(([192, 0, 2, 1], u16::try_from(at).unwrap()));
        let begun = RefCell::new(Vec::new());
        let alive = Rc::new(Cell::new(0));
        let pace = Pace {
            delay: delay.map(Duration::from_millis),
            deadline: limit.map(|limit| start + Duration::from_millis(limit)),
        };
        let addresses = (0..fates.len()).map(address).collect();
        let connect = |address: SocketAddr| {
            let at = usize::from(address.port());
            begun.borrow_mut().push((at, since()));
            let fate = fates[at];
            let held = Held::new(&alive);
            async move {
                let _held = held;
                let (after, result) = match fate {
                    Connects(after) => (after, Ok(at)),
                    Fails(after) => (after, Err(io::ErrorKind::ConnectionRefused.into())),
                    Hangs => std::future::pending().await,
                };
                tokio::time::sleep(Duration::from_millis(after)).await;
                result
            }
        };
        let dial = dial(addresses, pace, connect);
        let result = tokio::time::timeout(Duration::from_secs(3600), dial).await;
        let result = result.expect("every dial comes to an end");
        assert_eq!(alive.get(), 0, "no attempt outlives the dial");
        let result = result.map_err(|failed| {
            let describe = |(address, error): &(SocketAddr, io::Error)| {
                (usize::from(address.port()), error.kind())
            };
            failed.iter().map(describe).collect()
        });
        Run {
            result,
            took: since(),
            begun: begun.take(),
        }
    }

    /// Counts the attempts that are there.
    struct Held(Rc<Cell<usize>>);

    impl Held {
        fn new(alive: &Rc<Cell<usize>>) -> Self {
            alive.set(alive.get() + 1);
            Self(alive.clone())
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_holds_nobody_up() {
        let run = run(&[Hangs, Connects(20)], Some(250), Some(2000)).await;
        assert_eq!(run.result, Ok(1));
        assert_eq!((run.begun, run.took), (vec![(0, 0), (1, 250)], 270));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_attempt_begins_when_one_fails() {
        let fates = [Hangs, Fails(300), Fails(0), Connects(1)];
        let run = run(&fates, Some(250), None).await;
        assert_eq!(run.result, Ok(3));
        assert_eq!(run.begun, [(0, 0), (1, 250), (2, 500), (3, 500)]);
        assert_eq!(run.took, 501);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_begins_one_attempt_and_a_new_delay() {
        let run = run(&[Fails(100), Hangs, Connects(1)], Some(250), None).await;
        assert_eq!(run.begun, [(0, 0), (1, 100), (2, 350)]);
        assert_eq!((run.result, run.took), (Ok(2), 351));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_connection_is_used_whichever_attempt_it_is_of() {
        for (fates, first, took) in [
            ([Connects(400), Connects(200)], 0, 400),
            ([Connects(600), Connects(200)], 1, 450),
            ([Connects(200), Connects(0)], 0, 200),
        ] {
            let run = run(&fates, Some(250), Some(2000)).await;
            assert_eq!((run.result, run.took), (Ok(first), took));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_error_is_kept() {
        let refused = io::ErrorKind::ConnectionRefused;
        let run = run(&[Fails(300), Fails(0), Fails(100)], Some(250), None).await;
        assert_eq!(
            run.result,
            Err(vec![(1, refused), (0, refused), (2, refused)])
        );
        assert_eq!(run.took, 350);
        assert!(
            self::run(&[], Some(250), None)
                .await
                .result
                .unwrap_err()
                .is_empty()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn every_address_has_its_turn_within_a_short_limit() {
        let fates = [Hangs, Hangs, Hangs, Connects(1)];
        let run = run(&fates, Some(250), Some(400)).await;
        assert_eq!(run.result, Ok(3));
        assert_eq!(run.begun, [(0, 0), (1, 100), (2, 200), (3, 300)]);
        // RFC 8305, section 5: "MUST NOT be less than 10 ms".
        let run = self::run(&fates, Some(250), Some(4)).await;
        assert_eq!(run.begun, [(0, 0), (1, 10), (2, 20), (3, 30)]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_after_the_other_each_address_has_an_equal_part_of_the_time() {
        let fates = [Hangs, Fails(100), Connects(500)];
        let run = run(&fates, None, Some(3000)).await;
        assert_eq!(run.result, Ok(2));
        assert_eq!(run.begun, [(0, 0), (1, 1000), (2, 1100)]);
        assert_eq!(run.took, 1600);
        // The first had been given up.
        let fates = [Connects(1050), Connects(100)];
        let run = self::run(&fates, None, Some(2000)).await;
        assert_eq!((run.result, run.took), (Ok(1), 1100));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_was_given_up_is_told_as_timed_out() {
        let run = run(&[Hangs, Fails(0)], None, Some(2000)).await;
        let kinds = [io::ErrorKind::TimedOut, io::ErrorKind::ConnectionRefused];
        assert_eq!(run.result, Err(vec![(0, kinds[0]), (1, kinds[1])]));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_only_a_failure_ends_an_attempt_that_is_alone() {
        let run = run(&[Fails(120_000), Connects(1)], None, None).await;
        assert_eq!((run.result, run.took), (Ok(1), 120_001));
    }

    #[test]
    fn families_take_turns_beginning_with_the_resolvers_first() {
        let order = |given: &str| -> String {
            let address = |(at, family)| match family {
                '4' => ([192, 0, 2, 1], at).into(),
                _ => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], at).into(),
            };
            let addresses: Vec<SocketAddr> = (0..).zip(given.chars()).map(address).collect();
            let ports = in_order(addresses);
            ports.iter().map(|it| it.port().to_string()).collect()
        };
        for (given, expected) in [
            ("", ""),
            ("4", "0"),
            ("44", "01"),
            ("64", "01"),
            ("6644", "0213"),
            ("4446", "0312"),
            ("466", "012"),
            ("46466", "01234"),
            ("6444", "0123"),
        ] {
            assert_eq!(order(given), expected, "{given}");
        }
    }
}

//! Waits that end, and say what for.

use std::time::{Duration, Instant};
use tokio::task::yield_now;

/// Long enough for every task to do what it can without time or sockets.
const TURNS: usize = 300;

/// Waits until `condition` holds; panics with `what` if it does not within 5 s of real time.
///
/// With paused time: the clock stands still while tasks have something to do, and then goes on by 1 ms a look. Where it
/// has to stand still, [`settle`] and assert.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..TURNS {
        if condition() {
            return;
        }
        yield_now().await;
    }
    // Real time, since the runtime's may be paused.
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "not within 5 s: {what}"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Lets all tasks of a current-thread runtime run until they wait. Paused time does not go on.
pub async fn settle() {
    for _ in 0..TURNS {
        yield_now().await;
    }
}

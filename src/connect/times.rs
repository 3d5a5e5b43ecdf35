//! How long the parts of a connect take.

use std::cell::Cell;
use std::future::Future;

use tokio::time::Instant;

use crate::connection::timings::{ConnectTimes, Micros};

tokio::task_local! {
    static TIMES: Cell<ConnectTimes>;
}

/// Runs a connect, and returns how long it and its parts took. The parts of a connector that is polled in a task of its
/// own are not measured.
pub(crate) async fn measured<F: Future>(connect: F) -> (F::Output, ConnectTimes) {
    let begun = Instant::now();
    let within = async {
        let connected = connect.await;
        (connected, TIMES.with(Cell::get))
    };
    let (connected, mut times) = TIMES.scope(Cell::new(ConnectTimes::NONE), within).await;
    times.total = begun.elapsed().into();
    (connected, times)
}

/// Runs one part of the connect that is being measured, if any. The times of several parts of one kind add up.
pub(super) async fn part<F: Future>(
    which: fn(&mut ConnectTimes) -> &mut Micros,
    part: F,
) -> F::Output {
    let begun = Instant::now();
    let ended = part.await;
    // Fails if nothing measures the connect, which is harmless.
    let _ = TIMES.try_with(|cell| {
        let mut times = cell.get();
        let time = which(&mut times);
        let before = time.known().unwrap_or_default();
        *time = before.saturating_add(begun.elapsed()).into();
        cell.set(times);
    });
    ended
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_parts_of_a_connect_add_up_by_their_kind() {
        let wait = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        let connect = async {
            part(|times| &mut times.dns, wait(1)).await;
            part(|times| &mut times.tls, wait(2)).await;
            wait(3).await;
            part(|times| &mut times.tls, wait(4)).await;
            "made"
        };
        let (made, times) = measured(connect).await;
        assert_eq!(made, "made");
        let seconds = |time: Micros| time.known().map(|it| it.as_secs());
        assert_eq!(seconds(times.dns), Some(1));
        assert_eq!(seconds(times.connect), None);
        assert_eq!(seconds(times.tls), Some(6));
        assert_eq!(seconds(times.total), Some(10));
        // Without anybody who measures.
        part(|times| &mut times.dns, wait(1)).await;
    }
}

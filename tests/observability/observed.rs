//! What an `CountConnectsLayer` has counted, by the clock.

use std::time::Duration;

use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_keep_alive::connect::CountConnectsLayer;

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A connector that takes so many seconds, and fails where that is odd.
async fn connect(takes: u64) -> Result<u64, &'static str> {
    sleep(secs(takes)).await;
    if takes.is_multiple_of(2) {
        Ok(takes)
    } else {
        Err("odd")
    }
}

#[tokio::test(start_paused = true)]
async fn connects_are_counted_by_how_they_end_and_timed_when_they_succeed() {
    let observe = CountConnectsLayer::new();
    let mut connector = observe.layer(service_fn(connect));
    assert_eq!(connector.ready().await.unwrap().call(4).await, Ok(4));
    assert_eq!(connector.ready().await.unwrap().call(2).await, Ok(2));
    assert_eq!(connector.ready().await.unwrap().call(9).await, Err("odd"));
    drop(connector.ready().await.unwrap().call(8));
    let under_way = [connector.call(20), connector.call(30)];
    let connects = observe.connects();
    assert_eq!(
        (connects.begun, connects.connected, connects.failed),
        (6, 2, 1)
    );
    assert_eq!((connects.abandoned, connects.connecting()), (1, 2));
    assert_eq!(
        (connects.total_time, connects.longest_time),
        (secs(6), secs(4))
    );
    assert_eq!(
        connects.to_string(),
        "6 begun, 2 connected, 1 failed, 1 abandoned, 2 connecting; 6s in all, 4s the longest"
    );
    drop(under_way);
    let connects = observe.clone().connects();
    assert_eq!((connects.abandoned, connects.connecting()), (3, 0));
}

//! What comes before a response, and what waits for it.

use http::StatusCode;
use tokio::time::{Instant, sleep};

use super::*;

fn interim(respond: &mut SendResponse<Bytes>, status: u16) {
    let status = StatusCode::from_u16(status).unwrap();
    let interim = Response::builder().status(status).body(()).unwrap();
    respond.send_informational(interim).unwrap();
}

fn expecting(path: &str) -> Request<RequestBody> {
    let mut request = post(path, full("the body"));
    let value = http::HeaderValue::from_static("100-continue");
    request.headers_mut().insert(http::header::EXPECT, value);
    request
}

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test(start_paused = true)]
async fn a_body_that_waits_goes_when_the_server_says_so_or_after_a_while_or_not_at_all() {
    let mut setup = Setup::new();
    setup.exchange = ExchangeLayer::new().expect_continue_timeout(HOUR);
    let client = setup.client(|io| async {
        serve(accept(io, 100).await, |request, mut respond| async move {
            let path = request.uri().path().to_string();
            let mut body = request.into_body();
            let early = tokio::time::timeout(HOUR / 2, body.data()).await;
            assert!(early.is_err(), "nothing comes unasked");
            match &*path {
                "/100" => {
                    interim(&mut respond, 103);
                    interim(&mut respond, 100);
                    answer(respond, read(body).await).await;
                }
                "/late" => answer(respond, read(body).await).await,
                _ => {
                    answer(respond, "no".to_string()).await;
                    // The request was not sent to its end, and never will be.
                    assert!(body.data().await.unwrap().is_err());
                }
            }
        })
        .await;
    });
    for (path, expected, after) in [
        ("/100", "the body", HOUR / 2),
        ("/late", "the body", HOUR),
        ("/never", "no", HOUR / 2),
        ("/100", "the body", HOUR / 2),
    ] {
        let begun = Instant::now();
        let response = client.send(expecting(path)).await.unwrap();
        let text = response.into_body().text(100).await.unwrap();
        assert_eq!((path, &*text), (path, expected));
        let took = begun.elapsed();
        assert!(
            (after..after + HOUR / 4).contains(&took),
            "{path}: {took:?}"
        );
    }
    assert_eq!(client.agent.status().created, 1);
    client.at_rest().await;
}

#[tokio::test]
async fn a_few_interim_responses_are_passed_over_and_too_many_are_an_error() {
    let client = client(|io| async {
        serve(accept(io, 100).await, |request, mut respond| async move {
            let many: usize = request.uri().path()[1..].parse().unwrap();
            for _ in 0..many {
                interim(&mut respond, 103);
                sleep(Duration::from_micros(1)).await;
            }
            answer(respond, "after all".to_string()).await;
        })
        .await;
    });
    for few in ["/0", "/1", "/100"] {
        assert_eq!(client.text(few).await.unwrap(), "after all");
    }
    let error = client.get("/400").await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("100 interim"), "{error:?}");
    assert_eq!(client.text("/0").await.unwrap(), "after all");
    assert_eq!(client.agent.status().created, 1);
    client.at_rest().await;
}

//! How many fields a response may have.

use crate::support::agent::{agent, at_rest, belongs_here, fetch, read};
use crate::support::{Server, only_over_tcp};
use tower_keep_alive::{KeepAlive, KeepAliveLayer};

/// What every error of a head with too many fields says.
const TOO_MANY: &str = "the head of the response has more fields or bytes than it may: raise \
                        KeepAliveLayer::max_response_fields, or max_buf_size of hyper's builder in KeepAliveLayer::http1";

/// Answers each request with as many fields as its path says, `Content-Length` among them.
async fn server() -> Server {
    Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            let fields: usize = head.target.trim_start_matches('/').parse().unwrap();
            let mut response = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n".to_owned();
            for number in 1..fields {
                response += &format!("x-{number}: {number}\r\n");
            }
            conn.send(response + "\r\nok").await;
        }
    })
    .await
}

#[tokio::test]
async fn a_response_has_as_many_fields_as_are_allowed_and_not_one_more() {
    let server = server().await;
    let new = KeepAliveLayer::new;
    for (layer, most) in [
        (new(), 100),
        (new().max_response_fields(256), 256),
        (new().max_response_fields(7), 7),
    ] {
        let (client, handle) = agent(layer);
        for _ in 0..2 {
            let answer = fetch(&client, server.url(&format!("/{most}")))
                .await
                .unwrap();
            assert_eq!(answer.body, "ok");
        }
        let error = fetch(&client, server.url(&format!("/{}", most + 1))).await;
        let error = error.unwrap_err();
        assert!(
            error.is_too_large() && !error.is_reset() && !error.is_unsent(),
            "{error:?}"
        );
        assert!(error.to_string().starts_with(TOO_MANY), "{error}");
        assert_eq!((handle.status().created, handle.status().closed), (1, 1));
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn a_response_to_the_client_in_one_call_has_up_to_256_fields_unless_something_else_is_set() {
    if only_over_tcp("the default connector is TCP's") {
        return;
    }
    let server = server().await;
    let mut http1 = hyper::client::conn::http1::Builder::new();
    http1.max_headers(120);
    for (agent, most) in [
        (KeepAlive::new(), 256),
        (KeepAlive::builder().build(), 256),
        (
            KeepAlive::builder().build_with_tls(tower_keep_alive::connect::TlsLayer::new()),
            256,
        ),
        (KeepAlive::builder().max_response_fields(300).build(), 300),
        (KeepAlive::builder().http1(http1).build(), 120),
    ] {
        belongs_here(&agent.handle());
        for fields in [100, most.min(150), most] {
            let answer = read(agent.get(server.url(&format!("/{fields}"))).await.unwrap());
            assert_eq!(answer.await.unwrap().body, "ok");
        }
        let error = agent.get(server.url(&format!("/{}", most + 1))).await;
        let error = error.unwrap_err();
        assert!(
            error.is_too_large() && !error.is_reset() && !error.is_unsent(),
            "{error:?}"
        );
        assert!(error.to_string().starts_with(TOO_MANY), "{error}");
        let status = agent.handle().status();
        assert_eq!((status.created, status.closed), (1, 1));
        at_rest(&agent.handle()).await;
    }
}

/// The builder that comes later does not undo it, nor does it undo the builder's.
#[tokio::test]
async fn the_number_of_fields_is_the_builders_where_it_is_not_set_beside_it() {
    let server = server().await;
    let mut http1 = hyper::client::conn::http1::Builder::new();
    http1.max_headers(150);
    for (layer, most) in [
        (KeepAliveLayer::new().http1(http1.clone()), 150),
        (
            KeepAliveLayer::new().max_response_fields(120).http1(http1),
            120,
        ),
    ] {
        let (client, handle) = agent(layer);
        let answer = fetch(&client, server.url(&format!("/{most}"))).await;
        assert_eq!(answer.unwrap().body, "ok");
        let error = fetch(&client, server.url(&format!("/{}", most + 1))).await;
        assert!(error.unwrap_err().is_too_large());
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn any_number_of_fields_can_be_allowed() {
    let server = server().await;
    let (client, handle) = agent(KeepAliveLayer::new().max_response_fields(usize::MAX));
    let answer = fetch(&client, server.url("/5000")).await.unwrap();
    assert_eq!(answer.body, "ok");
    at_rest(&handle).await;
}

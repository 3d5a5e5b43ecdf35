//! M. The Host field.

use tower_keep_alive::KeepAliveLayer;

use crate::support::Server;
use crate::support::agent::{agent, agent_over, at_rest, fetch, get, send};
use crate::support::script;

#[tokio::test]
async fn node_102_an_ipv6_literal_stands_in_brackets_and_is_pooled() {
    let server = Server::start_ipv6(script::ok).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    for _ in 0..2 {
        fetch(&client, server.url("/")).await.unwrap();
    }
    let host = format!("[::1]:{}", server.addr().port());
    for head in server.heads() {
        assert_eq!(head.header("host"), Some(&*host));
    }
    assert_eq!(server.accepted(), 1);
    let status = handle.status();
    let key = status.idle.keys().next().expect("one is idle");
    assert_eq!(key.host(), "::1");
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_102_a_port_is_named_where_it_is_not_the_schemes_own_and_the_callers_host_stands() {
    for (uri, host, sent) in [
        ("http://h.test/", None, "h.test"),
        ("http://h.test:80/", None, "h.test"),
        ("http://h.test:8080/", None, "h.test:8080"),
        ("http://[::1]/", None, "[::1]"),
        ("http://[::1]:443/", None, "[::1]:443"),
        ("http://H.Test/", None, "h.test"),
        ("http://me:secret@h.test:81/", None, "h.test:81"),
        ("http://h.test/", Some("other.test"), "other.test"),
        ("http://h.test/", Some("foo:1234"), "foo:1234"),
    ] {
        let server = Server::in_memory(script::ok);
        let (client, handle) = agent_over(KeepAliveLayer::new(), server.connector());
        let mut request = get(uri);
        if let Some(host) = host {
            let host = host.parse().unwrap();
            request.headers_mut().insert(http::header::HOST, host);
        }
        send(&client, request).await.unwrap();
        assert_eq!(server.heads()[0].header("host"), Some(sent), "{uri}");
        at_rest(&handle).await;
    }
}

//! What a response tells of the TLS that it came under.

use tokio_rustls::rustls::version::{TLS12, TLS13};
use tower_keep_alive::extensions::OneShot;

use crate::agent;
use crate::support::Server;
use crate::support::agent::{at_rest, fetch, get, send};
use crate::support::tls::{CA, localhost};

#[tokio::test]
async fn a_response_tells_version_cipher_protocol_and_certificates() {
    for (version, name) in [(&TLS12, "TLSv1.2"), (&TLS13, "TLSv1.3")] {
        let server = Server::start_tls(
            localhost().server_of(&[version], None),
            |mut conn| async move {
                while conn.request().await.is_some() {
                    let suite = conn
                        .tls()
                        .unwrap()
                        .negotiated_cipher_suite()
                        .unwrap()
                        .suite();
                    conn.respond(&format!("{suite:?}")).await;
                }
            },
        )
        .await;
        let (client, handle) = agent(CA.trusted());
        for resumed in [false, true] {
            let mut request = get(server.url("/"));
            request.extensions_mut().insert(OneShot);
            let answer = send(&client, request).await.unwrap();
            let tls = answer.info.tls().expect("it came under TLS");
            assert_eq!(tls.protocol(), name);
            // By IANA's name, which rustls writes with a version.
            assert_eq!(tls.cipher(), answer.body.replace("TLS13_", "TLS_"));
            assert!(tls.cipher().starts_with("TLS_"), "{tls:?}");
            assert_eq!(tls.alpn(), Some(&b"http/1.1"[..]));
            assert_eq!(tls.is_resumed(), resumed, "{tls:?}");
            let shown: Vec<_> = tls.peer_certificates().map(<[u8]>::to_vec).collect();
            let (chain, _) = localhost().parts();
            assert_eq!(shown, [chain[0].to_vec()]);
            assert!(format!("{:?}", answer.info).contains(name));
        }
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn without_tls_there_is_nothing_to_tell() {
    let server = Server::ok().await;
    let (client, handle) = agent(CA.trusted());
    let answer = fetch(&client, server.url("/")).await.unwrap();
    assert!(answer.info.tls().is_none());
    assert!(answer.info.remote_addr().is_some());
    at_rest(&handle).await;
}

/// What fails after the handshake says whose server it was.
#[tokio::test]
async fn an_error_tells_the_tls_of_its_connection() {
    let server = Server::start_tls(localhost().server(), |mut conn| async move {
        conn.request().await;
        conn.fin().await;
    })
    .await;
    let (client, handle) = agent(CA.trusted());
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    let tls = error.connection().and_then(|it| it.tls());
    assert_eq!(tls.expect("it had TLS").protocol(), "TLSv1.3");
    at_rest(&handle).await;
}

//! Who a server has to be, and who we are to it.

use std::error::Error as StdError;

use rcgen::date_time_ymd;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, CertificateError, ServerConfig};
use tower_keep_alive::connect::TlsLayer;

use crate::support::agent::{at_rest, fetch};
use crate::support::tls::{Authority, CA, Identity, localhost};
use crate::support::{Server, script};
use crate::{agent, in_chain, text};

/// Asks `host` of a server with this configuration twice: nothing that failed once may pass the second time.
async fn refused(tls: TlsLayer, host: &str, server: ServerConfig) -> rustls::Error {
    let server = Server::start_tls(server, script::ok).await;
    let (client, handle) = agent(tls);
    let mut reason = None;
    for made in 1..=2 {
        let error = fetch(&client, server.url_of(host, "/")).await.unwrap_err();
        assert!(error.is_connect() && error.is_unsent(), "{error:?}");
        assert!(error.is_certificate(), "{error:?}");
        assert!(!error.is_timeout() && !error.is_reused(), "{error:?}");
        assert!(error.connection().is_none());
        let status = handle.status();
        assert_eq!((status.created, status.create_errors), (made, made));
        assert!(
            status.idle.is_empty() && status.active.is_empty(),
            "{status}"
        );
        let found = in_chain::<rustls::Error>(&error).expect("rustls' own error");
        let said = text(&error);
        assert!(said.contains(&found.to_string()), "{said}");
        assert!(said.contains(host), "{said}");
        reason = Some(found.clone());
    }
    assert_eq!((server.accepted(), server.requests()), (2, 0));
    at_rest(&handle).await;
    reason.expect("a reason")
}

fn certificate(error: rustls::Error) -> CertificateError {
    match error {
        rustls::Error::InvalidCertificate(error) => error,
        error => panic!("not about the certificate: {error:?}"),
    }
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    let server = CA.issue(&["another.example"]).server();
    let error = certificate(refused(CA.trusted(), "localhost", server).await);
    assert!(
        matches!(error, CertificateError::NotValidForNameContext { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_address_needs_a_certificate_of_its_own() {
    let server = CA.issue(&["localhost"]).server();
    let error = certificate(refused(CA.trusted(), "127.0.0.1", server).await);
    assert!(
        matches!(error, CertificateError::NotValidForNameContext { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let server = CA.issue_with(&["localhost"], |params| {
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let error = certificate(refused(CA.trusted(), "localhost", server.server()).await);
    assert!(
        matches!(error, CertificateError::ExpiredContext { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_certificate_of_the_future_is_refused() {
    let server = CA.issue_with(&["localhost"], |params| {
        params.not_before = date_time_ymd(2099, 1, 1);
    });
    let error = certificate(refused(CA.trusted(), "localhost", server.server()).await);
    assert!(
        matches!(error, CertificateError::NotValidYetContext { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_self_signed_certificate_is_refused() {
    let server = Identity::self_signed(&["localhost"]).server();
    let error = certificate(refused(CA.trusted(), "localhost", server).await);
    assert!(matches!(error, CertificateError::Other(_)), "{error:?}");
}

#[tokio::test]
async fn a_certificate_of_an_authority_that_is_not_trusted_is_refused() {
    let server = Authority::new("stranger").issue(&["localhost"]).server();
    let error = certificate(refused(CA.trusted(), "localhost", server).await);
    assert_eq!(error, CertificateError::UnknownIssuer);
}

#[tokio::test]
async fn a_certificate_for_clients_is_none_for_servers() {
    let server = CA.issue_with(&["localhost"], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    let error = certificate(refused(CA.trusted(), "localhost", server.server()).await);
    assert!(
        matches!(error, CertificateError::InvalidPurposeContext { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_client_shows_its_certificate_to_a_server_that_asks() {
    for versions in [&[&TLS12], &[&TLS13]] {
        let staff = Authority::new("staff");
        let config = localhost().server_of(versions, Some(&staff));
        let server = Server::start_tls(config, |mut conn| async move {
            while conn.request().await.is_some() {
                let shown = conn.tls().unwrap().peer_certificates();
                let shown = shown.map_or(0, <[_]>::len);
                conn.respond(&shown.to_string()).await;
            }
        })
        .await;
        let (chain, key) = staff.issue(&["me"]).parts();
        let tls = CA.trusted().client_certificate(chain, key).unwrap();
        assert_eq!(format!("{tls:?}"), "TlsLayer { .. }");
        let (client, handle) = agent(tls);
        for _ in 0..2 {
            assert_eq!(fetch(&client, server.url("/")).await.unwrap().body, "1");
        }
        assert_eq!((handle.status().created, server.accepted()), (1, 1));
        at_rest(&handle).await;
    }
}

/// With TLS 1.2 that is a part of the handshake; with 1.3 the client hears of it after its own handshake is over.
#[tokio::test]
async fn a_client_without_the_certificate_that_is_asked_for_hears_why() {
    for (versions, is_connect) in [(&[&TLS12], true), (&[&TLS13], false)] {
        let staff = Authority::new("staff");
        let config = localhost().server_of(versions, Some(&staff));
        let server = Server::start_tls(config, script::ok).await;
        let (client, handle) = agent(CA.trusted());
        let error = fetch(&client, server.url("/")).await.unwrap_err();
        assert_eq!(error.is_connect(), is_connect, "{error:?}");
        assert!(!error.is_certificate(), "{error:?}");
        assert!(!error.is_reused(), "{error:?}");
        assert!(
            text(&error).contains("received fatal alert"),
            "{}",
            text(&error)
        );
        let status = handle.status();
        assert_eq!(status.created, 1);
        assert_eq!(status.create_errors, u64::from(is_connect));
        assert!(status.idle.is_empty());
        assert_eq!(server.requests(), 0);
        at_rest(&handle).await;
    }
}

#[test]
fn a_key_that_is_not_the_certificates_is_refused_at_once() {
    let (chain, _) = CA.issue(&["me"]).parts();
    let (_, key) = CA.issue(&["me"]).parts();
    let error = CA.trusted().client_certificate(chain, key).unwrap_err();
    assert!(
        matches!(error, rustls::Error::InconsistentKeys(_)),
        "{error}"
    );
    assert!(error.source().is_none());
}

//! Whom a client trusts, and what it says of a server that it does not.

use rcgen::{
    BasicConstraints, CertificateParams, GeneralSubtree, IsCa, NameConstraints, date_time_ymd,
};
use tokio_rustls::rustls::RootCertStore;
use tower::Layer;
use tower_keep_alive::connect::{TcpConnector, TlsConfig, TlsLayer};
use tower_keep_alive::{Error, KeepAliveLayer, extensions::Route};

use crate::support::agent::{agent_over, at_rest, fetch, get, send};
use crate::support::tls::{Authority, CA, Identity, localhost};
use crate::support::{Server, script};
use crate::{Loopback, agent};

/// As `openssl req -x509` makes them: an authority, and a server.
fn of_openssl(params: &mut CertificateParams) {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.extended_key_usages.clear();
}

fn store(identity: &Identity) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(identity.parts().0.remove(0)).unwrap();
    roots
}

/// One request for `host` to a server that is `identity`.
async fn asks(tls: TlsLayer, host: &str, identity: &Identity) -> Result<(), Error> {
    let server = Server::start_tls(identity.server(), script::ok).await;
    let (client, handle) = agent(tls);
    let answer = fetch(&client, server.url_of(host, "/")).await;
    let sent = answer.is_ok().into();
    assert_eq!((server.accepted(), server.requests()), (1, sent));
    at_rest(&handle).await;
    answer.map(|_| ())
}

async fn refused(tls: TlsLayer, host: &str, identity: &Identity) -> String {
    let error = asks(tls, host, identity).await.unwrap_err();
    assert!(error.is_certificate() && error.is_connect(), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn a_self_signed_certificate_that_is_a_root_is_trusted() {
    for identity in [
        Identity::self_signed(&["localhost"]),
        Identity::self_signed_with(&["localhost"], of_openssl),
    ] {
        let by_pem = TlsLayer::new().roots_pem(identity.pem().0).unwrap();
        for tls in [by_pem, TlsLayer::with_roots(store(&identity))] {
            asks(tls, "localhost", &identity).await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_certificate_of_a_server_that_is_a_root_is_trusted_whoever_issued_it() {
    let identity = Authority::new("stranger").issue(&["localhost"]);
    let tls = TlsLayer::new().roots_pem(identity.pem().0).unwrap();
    asks(tls, "localhost", &identity).await.unwrap();
}

#[tokio::test]
async fn a_self_signed_root_has_to_have_the_name_that_is_asked_for() {
    let identity = Identity::self_signed_with(&["a.test", "127.0.0.2"], of_openssl);
    let tls = TlsLayer::new().roots_pem(identity.pem().0).unwrap();
    let said = refused(tls, "b.test", &identity).await;
    assert!(
        said.contains("is for a.test, 127.0.0.2, and not for b.test;"),
        "{said}"
    );
}

#[tokio::test]
async fn a_self_signed_root_has_to_be_valid_now() {
    let expired = Identity::self_signed_with(&["localhost"], |params| {
        of_openssl(params);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let tls = TlsLayer::new().roots_pem(expired.pem().0).unwrap();
    let said = refused(tls, "localhost", &expired).await;
    assert!(
        said.contains("expired on Fri, 01 Jan 2021 00:00:00 GMT, "),
        "{said}"
    );

    let coming = Identity::self_signed_with(&["localhost"], |params| {
        of_openssl(params);
        params.not_before = date_time_ymd(2099, 1, 1);
    });
    let tls = TlsLayer::new().roots_pem(coming.pem().0).unwrap();
    let said = refused(tls, "localhost", &coming).await;
    assert!(said.contains("not valid before Thu, 01 Jan 2099"), "{said}");
}

/// It has the name of the root, and not its key.
#[tokio::test]
async fn a_self_signed_certificate_that_was_made_again_is_not_trusted_for_the_old_one() {
    let [old, new] = [(), ()].map(|()| Identity::self_signed_with(&["localhost"], of_openssl));
    let tls = TlsLayer::new().roots_pem(old.pem().0).unwrap();
    let said = refused(tls, "localhost", &new).await;
    assert!(
        said.contains("is self-signed, and not among the roots"),
        "{said}"
    );
    assert!(said.contains("TlsLayer::roots_pem"), "{said}");
}

/// Otherwise it would vouch for more names than it may.
#[tokio::test]
async fn a_root_of_some_names_only_does_not_vouch_for_itself() {
    let identity = Identity::self_signed_with(&["localhost"], |params| {
        of_openssl(params);
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("internal.test".into())],
            excluded_subtrees: Vec::new(),
        });
    });
    let tls = TlsLayer::new().roots_pem(identity.pem().0).unwrap();
    refused(tls, "localhost", &identity).await;
}

#[tokio::test]
async fn who_is_not_trusted_is_told_with_what_to_do() {
    let said = refused(
        CA.trusted(),
        "localhost",
        &Authority::new("stranger").issue(&["localhost"]),
    )
    .await;
    assert!(said.contains("authority that is not trusted"), "{said}");
    assert!(said.contains("TlsLayer::roots_pem"), "{said}");
    // By a configuration of rustls' own.
    let tls = TlsLayer::with_config(CA.client_config());
    let said = refused(
        tls,
        "localhost",
        &Identity::self_signed_with(&["localhost"], of_openssl),
    )
    .await;
    assert!(said.contains("is that of an authority"), "{said}");
}

#[tokio::test]
async fn roots_add_up() {
    let other = Authority::new("other");
    let tls = TlsLayer::new().roots_pem(other.pem()).unwrap();
    let tls = tls.roots_pem(CA.pem()).unwrap();
    let of_other = other.issue(&["localhost"]);
    for identity in [&localhost(), &of_other] {
        asks(tls.clone(), "localhost", identity).await.unwrap();
    }
    let both = TlsLayer::new().roots_pem(other.pem() + &CA.pem()).unwrap();
    asks(both, "localhost", &localhost()).await.unwrap();
    // In place of whom a configuration trusts.
    let tls = TlsLayer::with_config(CA.client_config());
    let tls = tls.roots_pem(other.pem()).unwrap();
    asks(tls.clone(), "localhost", &of_other).await.unwrap();
    refused(tls, "localhost", &localhost()).await;
}

/// The platform's roots are asked for in a process of their own, whose variables say where they are.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_platforms_roots_count_beside_others_where_that_is_asked_for() {
    const CHILD: &str = "TOWER_KEEP_ALIVE_ROOTS";
    let name = "roots::the_platforms_roots_count_beside_others_where_that_is_asked_for";
    let Ok(authority) = std::env::var(CHILD) else {
        let folder = std::env::temp_dir().join(format!("tower-keep-alive-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (platform, server) = (folder.join("platform.pem"), Authority::new("platform"));
        let identity = server.issue(&["localhost"]);
        std::fs::write(&platform, server.pem()).unwrap();
        let (certificate, key) = identity.pem();
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .envs([
                ("SSL_CERT_FILE", platform.as_path()),
                ("SSL_CERT_DIR", "".as_ref()),
            ])
            .env(CHILD, format!("{certificate}{key}"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
        std::fs::remove_dir_all(folder).unwrap();
        return;
    };
    let of_platform = Identity::from_pem(&authority);
    let own = TlsLayer::new().roots_pem(CA.pem()).unwrap();
    refused(own.clone(), "localhost", &of_platform).await;
    let both = own.platform_roots(true);
    for identity in [&of_platform, &localhost()] {
        asks(both.clone(), "localhost", identity).await.unwrap();
    }
    let said = refused(both.clone(), "b.test", &localhost()).await;
    assert!(said.contains("and not for b.test"), "{said}");
    let stranger = Identity::self_signed(&["localhost"]);
    let said = refused(both, "localhost", &stranger).await;
    assert!(said.contains("is self-signed"), "{said}");
    asks(TlsLayer::new(), "localhost", &of_platform)
        .await
        .unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_variable_that_names_no_roots_of_the_platform_is_told_with_its_path() {
    const CHILD: &str = "TOWER_KEEP_ALIVE_NO_ROOTS";
    let name = "roots::a_variable_that_names_no_roots_of_the_platform_is_told_with_its_path";
    if std::env::var_os(CHILD).is_none() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .envs([("SSL_CERT_FILE", "/no/such/roots.pem"), (CHILD, "1")])
            .env_remove("SSL_CERT_DIR")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
        return;
    }
    let server = Server::start_tls(localhost().server(), script::ok).await;
    let (client, handle) = agent(TlsLayer::new());
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot connect: the platform has no certificates to trust (SSL_CERT_FILE is \"/no/such/roots.pem\"; correct or unset it)"
    );
    assert!(error.is_connect() && !error.is_certificate(), "{error:?}");
    at_rest(&handle).await;
}

#[tokio::test]
async fn whoever_answers_is_talked_to_where_certificates_need_not_be_valid() {
    let identity = Identity::self_signed_with(&["other.test"], |params| {
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    refused(
        TlsLayer::new().roots_pem(CA.pem()).unwrap(),
        "localhost",
        &identity,
    )
    .await;
    for tls in [
        TlsLayer::new(),
        CA.trusted(),
        TlsLayer::with_config(CA.client_config()),
    ] {
        let tls = tls.danger_accept_invalid_certs(true);
        assert!(format!("{tls:?}").contains("danger_accept_invalid_certs: true"));
        asks(tls.clone(), "localhost", &identity).await.unwrap();
        refused(
            CA.trusted().danger_accept_invalid_certs(false),
            "localhost",
            &identity,
        )
        .await;
    }
}

#[tokio::test]
async fn a_route_trusts_by_the_settings_of_a_layer() {
    let identity = Identity::self_signed(&["localhost"]);
    let server = Server::start_tls(identity.server(), script::ok).await;
    let own = TlsConfig::from(TlsLayer::new().roots_pem(identity.pem().0).unwrap());
    let connector = CA.trusted().layer(TcpConnector::with_resolver(Loopback));
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    for _ in 0..2 {
        let mut request = get(server.url_of("localhost", "/"));
        let route = Route::new().with_tls(own.clone());
        request.extensions_mut().insert(route);
        assert_eq!(send(&client, request).await.unwrap().status, 200);
    }
    assert_eq!((server.accepted(), handle.status().created), (1, 1));
    let error = fetch(&client, server.url_of("localhost", "/"))
        .await
        .unwrap_err();
    assert!(error.is_certificate());
    at_rest(&handle).await;
}

#[tokio::test]
async fn the_one_call_client_takes_settings_of_tls() {
    let identity = Identity::self_signed_with(&["localhost"], of_openssl);
    let mut config = identity.server();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let server = Server::start_tls(config, script::ok).await;
    let tls = TlsLayer::new().roots_pem(identity.pem().0).unwrap();
    let client = tower_keep_alive::KeepAlive::builder().build_with_tls(tls);
    let response = client.get(server.url_of("localhost", "/")).await.unwrap();
    assert_eq!(response.into_body().text(100).await.unwrap(), "ok");
    at_rest(&client.handle()).await;
    let refused = tower_keep_alive::KeepAlive::new();
    let error = refused.get(server.url_of("localhost", "/")).await;
    assert!(error.unwrap_err().is_connect());
}

//! Certificates and keys from PEM, and what is said of PEM that has none.

use std::error::Error as StdError;
use std::io;

use tower_keep_alive::connect::TlsLayer;

use crate::agent;
use crate::support::Server;
use crate::support::agent::{at_rest, fetch};
use crate::support::tls::{Authority, CA, Identity, localhost};

const ENCRYPTED: &str =
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIGb\n-----END ENCRYPTED PRIVATE KEY-----\n";
const ENCRYPTED_OF_OPENSSL: &str = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
     DEK-Info: AES-128-CBC,5C\n\nMIGb\n-----END RSA PRIVATE KEY-----\n";
const DAMAGED: &str = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
const CUT_OFF: &str = "-----BEGIN CERTIFICATE-----\nMIGb\n";
const NO_X509: &str = "-----BEGIN CERTIFICATE-----\nMIGb\n-----END CERTIFICATE-----\n";

#[test]
fn roots_that_cannot_be_read_are_told_with_the_reason() {
    let (_, key) = Identity::self_signed(&["localhost"]).pem_text();
    let der = Identity::self_signed(&["localhost"]).parts().0.remove(0);
    let second = CA.pem() + NO_X509;
    for (pem, said) in [
        (b"".as_slice(), "the PEM is empty"),
        (b" \n", "the PEM is empty"),
        (b"hello", "this is not PEM"),
        (&der, "this is DER and not PEM"),
        (
            key.as_bytes(),
            "the PEM has PRIVATE KEY, and no CERTIFICATE",
        ),
        (
            ENCRYPTED.as_bytes(),
            "the PEM has ENCRYPTED PRIVATE KEY, and no CERTIFICATE",
        ),
        (DAMAGED.as_bytes(), "the PEM is damaged"),
        (CUT_OFF.as_bytes(), "the PEM is damaged"),
        (
            NO_X509.as_bytes(),
            "certificate 1 of the PEM cannot be read",
        ),
        (second.as_bytes(), "certificate 2 of the PEM cannot be read"),
    ] {
        let error = TlsLayer::new().roots_pem(pem).unwrap_err().to_string();
        let said = format!("no certificate for a root: {said}");
        assert!(error.starts_with(&said), "{error}");
    }
}

#[test]
fn a_file_of_roots_that_cannot_be_read_is_named_with_what_to_do() {
    let here = std::env::current_dir().unwrap();
    let folder = std::env::temp_dir();
    let folder = folder.to_str().unwrap();
    for (path, said, kind) in [
        (
            "/no/such/ca.pem",
            "cannot read /no/such/ca.pem: there is no such file; correct the path, or put the certificates there",
            io::ErrorKind::NotFound,
        ),
        (
            "no/such/ca.pem",
            &format!(
                "cannot read no/such/ca.pem: there is no such file in the working directory {}; correct the path, or put the \
                 certificates there",
                here.display()
            ),
            io::ErrorKind::NotFound,
        ),
        (
            folder,
            &format!("cannot read {folder}: is a directory; name a file in it"),
            io::ErrorKind::IsADirectory,
        ),
    ] {
        let error = TlsLayer::new().roots_pem_file(path).unwrap_err();
        assert_eq!(error.to_string(), said);
        // What a program prints that returns it from `main`.
        assert!(format!("{error:?}").contains(said), "{error:?}");
        let source = error.source().and_then(|it| it.downcast_ref::<io::Error>());
        assert_eq!(source.map(io::Error::kind), Some(kind));
    }
}

#[test]
fn a_clients_certificate_and_key_that_cannot_be_read_are_told_with_the_reason() {
    let (chain, key) = CA.issue(&["me"]).pem_text();
    let (_, other) = CA.issue(&["me"]).pem_text();
    let both = chain.clone() + &key;
    for (chain, key, said) in [
        (
            "",
            &*key,
            "no certificate for this client: the PEM is empty",
        ),
        (
            &*key,
            &key,
            "no certificate for this client: the PEM has PRIVATE KEY",
        ),
        (
            &chain,
            "",
            "no private key for this client: the PEM is empty",
        ),
        (
            &chain,
            &chain,
            "no private key for this client: the PEM has CERTIFICATE, and no PRIVATE KEY",
        ),
        (
            &chain,
            ENCRYPTED,
            "no private key for this client: the private key is encrypted; decrypt it",
        ),
        (
            &chain,
            ENCRYPTED_OF_OPENSSL,
            "no private key for this client: the private key is encrypted; decrypt it",
        ),
        (
            &chain,
            &other,
            "no certificate for this client: the private key belongs to another certificate",
        ),
        (
            NO_X509,
            &key,
            "no certificate for this client: the certificate or its private key cannot be used",
        ),
    ] {
        let error = TlsLayer::new()
            .client_certificate_pem(chain, key)
            .unwrap_err();
        assert!(error.to_string().starts_with(said), "{error}");
    }
    let _ = TlsLayer::new()
        .client_certificate_pem(&both, &both)
        .unwrap();
}

#[tokio::test]
async fn a_client_shows_its_certificate_of_pem() {
    let staff = Authority::new("staff");
    let config = localhost().server_of(&[&tokio_rustls::rustls::version::TLS13], Some(&staff));
    let server = Server::start_tls(config, crate::support::script::ok).await;
    let (chain, key) = staff.issue(&["me"]).pem_text();
    let tls = TlsLayer::new().roots_pem(CA.pem()).unwrap();
    let (client, handle) = agent(tls.client_certificate_pem(chain, key).unwrap());
    assert_eq!(fetch(&client, server.url("/")).await.unwrap().status, 200);
    at_rest(&handle).await;
}

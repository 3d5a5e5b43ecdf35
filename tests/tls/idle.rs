//! What comes in while a connection is idle is never taken for an answer.

use http::Uri;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_rustls::rustls::version::TLS13;
use tower::{Layer, ServiceExt};
use tower_keep_alive::KeepAliveLayer;
use tower_keep_alive::connect::{Destination, MaybeTls, Probe, Tcp, TcpConnector};
use tower_keep_alive::custom::Liveness;

use crate::support::agent::{at_rest, fetch, post, send};
use crate::support::tls::{CA, localhost};
use crate::support::{Conn, Server, eventually};
use crate::{agent, agent_with, idle};

/// What a server does to an idle connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    /// A whole response.
    Response,
    /// The same, as much as hyper reads at once before it.
    Glued,
    /// close_notify, and no FIN.
    Notify,
    /// close_notify and FIN.
    Fin,
    Cut,
    Reset,
    /// The beginning of a record: of what, nobody can know yet.
    Half,
    /// Renews the keys of its direction and asks for ours: as TLS' own as a ticket for a later session.
    Keys,
}

const STRAY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray";

/// Answers the first request, does its deed when told, and from then on answers as others do.
async fn misbehaving(deed: Deed) -> (Server, mpsc::UnboundedSender<()>) {
    let (tell, told) = mpsc::unbounded_channel();
    let told = std::sync::Arc::new(tokio::sync::Mutex::new(told));
    let config = localhost().server_of(&[&TLS13], None);
    let server = Server::start_tls(config, move |mut conn| {
        let told = told.clone();
        async move {
            if conn.index == 0 {
                conn.request().await;
                conn.respond("ok").await;
                told.lock().await.recv().await;
                if !does(&mut conn, deed).await {
                    return match deed {
                        Deed::Fin => conn.fin().await,
                        Deed::Cut => conn.cut().await,
                        Deed::Reset => conn.rst(),
                        _ => conn.closed().await,
                    };
                }
            }
            while conn.request().await.is_some() {
                conn.respond("ok").await;
            }
        }
    })
    .await;
    (server, tell)
}

/// Whether the connection can go on.
async fn does(conn: &mut Conn, deed: Deed) -> bool {
    match deed {
        Deed::Response => conn.send(STRAY).await,
        Deed::Glued => {
            conn.send([STRAY.as_bytes(), &[b' '; 1 << 14]].concat())
                .await;
        }
        Deed::Notify => {
            conn.tls().unwrap().send_close_notify();
            conn.flush().await;
        }
        Deed::Half => conn.send_below_tls([0x17, 3, 3, 0, 99, 1, 2, 3]).await,
        Deed::Keys => {
            conn.tls().unwrap().refresh_traffic_keys().unwrap();
            conn.flush().await;
            return true;
        }
        Deed::Fin | Deed::Cut | Deed::Reset => {}
    }
    false
}

/// The driver hears of it, and the connection is not missed.
#[tokio::test]
async fn what_comes_in_ends_an_idle_connection() {
    for deed in [
        Deed::Response,
        Deed::Glued,
        Deed::Notify,
        Deed::Fin,
        Deed::Cut,
        Deed::Reset,
    ] {
        let (server, tell) = misbehaving(deed).await;
        let (client, handle) = agent(CA.trusted());
        fetch(&client, server.url("/")).await.unwrap();
        assert_eq!(idle(&handle), 1);
        tell.send(()).unwrap();
        eventually("it is gone", || idle(&handle) == 0).await;
        let answer = send(&client, post(server.url("/"), "x")).await.unwrap();
        assert_eq!(answer.body, "ok", "{deed:?}");
        assert!(!answer.info.is_reused(), "{deed:?}");
        let status = handle.status();
        assert_eq!(status.created, 2, "{deed:?}: {status}");
        assert_eq!((server.accepted(), server.requests()), (2, 2));
        at_rest(&handle).await;
    }
}

/// Nothing of the runtime runs between the server's deed and the request: the socket itself is asked.
#[tokio::test]
async fn what_the_driver_has_not_heard_of_is_seen() {
    for (deed, is_good) in [
        (Deed::Response, false),
        (Deed::Notify, false),
        (Deed::Fin, false),
        (Deed::Cut, false),
        (Deed::Reset, false),
        (Deed::Half, false),
        // What belongs to TLS alone is read by whoever looks.
        (Deed::Keys, true),
    ] {
        // The server has a runtime of its own.
        let elsewhere = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (server, tell) = elsewhere
            .spawn(async move { misbehaving(deed).await })
            .await
            .unwrap();
        let (client, handle) = agent(CA.trusted());
        let first = fetch(&client, server.url("/")).await.unwrap();
        assert_eq!(idle(&handle), 1);
        tell.send(()).unwrap();
        // Blocks this thread, and with it the driver.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let answer = send(&client, post(server.url("/"), "x")).await.unwrap();
        assert_eq!(answer.body, "ok", "{deed:?}");
        assert_eq!(answer.info.id() == first.info.id(), is_good, "{deed:?}");
        let status = handle.status();
        assert_eq!(status.stale, u64::from(!is_good), "{deed:?}: {status}");
        assert_eq!(server.accepted(), 1 + usize::from(!is_good), "{deed:?}");
        assert_eq!(server.requests(), 2);
        at_rest(&handle).await;
        elsewhere.shutdown_background();
    }
}

/// What belongs to TLS alone is the driver's to read, and ends nothing.
#[tokio::test]
async fn what_is_tlss_own_ends_nothing() {
    let (server, tell) = misbehaving(Deed::Keys).await;
    let (client, handle) = agent(CA.trusted());
    let first = fetch(&client, server.url("/")).await.unwrap();
    tell.send(()).unwrap();
    // Until both ends have had their turn.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let second = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(first.info.id(), second.info.id());
    let status = handle.status();
    assert_eq!((status.created, status.stale), (1, 0), "{status}");
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

/// The driver has read it: it is on no socket any more, and not decrypted either.
#[tokio::test]
async fn half_of_a_record_is_not_forgotten() {
    let own = KeepAliveLayer::new();
    // As for a transport whose probe the agent does not know.
    let told = KeepAliveLayer::new()
        .probe_with(|transport: &MaybeTls<Tcp>| transport.probe_with(Tcp::probe));
    for layer in [own, told] {
        let (server, tell) = misbehaving(Deed::Half).await;
        let (client, handle) = agent_with(layer, CA.trusted());
        let first = fetch(&client, server.url("/")).await.unwrap();
        tell.send(()).unwrap();
        // Until both ends have had their turn.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        let second = fetch(&client, server.url("/")).await.unwrap();
        assert_ne!(first.info.id(), second.info.id());
        let status = handle.status();
        assert_eq!((status.created, status.stale), (2, 1), "{status}");
        assert_eq!((server.accepted(), server.requests()), (2, 2));
        at_rest(&handle).await;
    }
}

/// A transport of your own reads as much as it likes: what is left is in TLS, and on no socket.
#[tokio::test]
async fn a_probe_sees_what_is_decrypted_and_not_read() {
    let server = Server::start_tls(localhost().server(), async |mut conn| {
        conn.send("two").await;
        conn.closed().await;
    })
    .await;
    let target: Uri = server.url("/").parse().unwrap();
    let target: Destination = target.try_into().unwrap();
    let tls = CA.trusted().layer(TcpConnector::new());
    let mut stream = tls.oneshot(target).await.unwrap();
    let probes = [stream.probe(), stream.probe_with(Tcp::probe)];
    for (left, expected) in [
        (2, Liveness::Dead),
        (1, Liveness::Dead),
        (0, Liveness::Open),
    ] {
        stream.read_exact(&mut [0]).await.unwrap();
        let looked = probes.each_ref().map(Probe::check);
        assert_eq!(looked, [expected; 2], "{left} bytes are left");
    }
}

//! Small proxies, as scripts of a server: they connect over TCP to wherever they are asked to.

use super::conn::Conn;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Answers a CONNECT with a tunnel; the request is in the server's heads. The address of a name is `127.0.0.1`.
pub async fn connect(mut conn: Conn) {
    let Some(head) = conn.request().await else {
        return;
    };
    assert_eq!(head.method, "CONNECT");
    let (host, port) = head.target.rsplit_once(':').expect("host and port");
    let host = match host.parse() {
        Ok(address) => address,
        Err(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
    };
    let port = port.parse().expect("a port");
    match TcpStream::connect(SocketAddr::new(host, port)).await {
        Ok(origin) => {
            conn.send("HTTP/1.1 200 Connection established\r\n\r\n")
                .await;
            tunnel(conn, origin).await;
        }
        Err(_) => conn.respond_with("HTTP/1.1 502 Bad Gateway", "").await,
    }
}

/// SOCKS5 (RFC 1928), for addresses and for names, whose address is `127.0.0.1` (so is that of `::1`); with a login, it has to be
/// `me` and `secret` (RFC 1929).
pub async fn socks5(mut conn: Conn, with_login: bool) {
    let method = if with_login { 2 } else { 0 };
    let offered = exactly(&mut conn, 3).await;
    if offered != [5, 1, method] {
        conn.send([5, 0xff]).await;
        return conn.closed().await;
    }
    conn.send([5, method]).await;
    if with_login {
        let login = exactly(&mut conn, 11).await;
        let is_right = login == b"\x01\x02me\x06secret";
        conn.send([1, u8::from(!is_right)]).await;
        if !is_right {
            return conn.closed().await;
        }
    }
    let mut asked = exactly(&mut conn, 10).await;
    assert_eq!(asked[..3], [5, 1, 0]);
    let port = asked.split_off(asked.len() - 2);
    let port = u16::from_be_bytes([port[0], port[1]]);
    let host = match asked[3] {
        1 => format!("{}.{}.{}.{}", asked[4], asked[5], asked[6], asked[7]),
        // A name, or `::1`: the origins of the tests are on IPv4.
        3 | 4 => "127.0.0.1".to_owned(),
        other => panic!("an address of kind {other}"),
    };
    match TcpStream::connect((host, port)).await {
        Ok(origin) => {
            conn.send([5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await;
            tunnel(conn, origin).await;
        }
        Err(_) => {
            conn.send([5, 5, 0, 1, 0, 0, 0, 0, 0, 0]).await;
            conn.closed().await;
        }
    }
}

/// SOCKS4, for addresses, and with `takes_names` SOCKS4a, for names too, whose address is `127.0.0.1`. Users have no names.
pub async fn socks4(mut conn: Conn, takes_names: bool) {
    let mut asked = exactly(&mut conn, 9).await;
    assert_eq!((&asked[..2], asked[8]), (&[4, 1][..], 0));
    let port = u16::from_be_bytes([asked[2], asked[3]]);
    let mut host = format!("{}.{}.{}.{}", asked[4], asked[5], asked[6], asked[7]);
    let mut granted = true;
    if host == "0.0.0.255" {
        while asked[9..].last() != Some(&0) {
            asked.extend(exactly(&mut conn, 1).await);
        }
        granted = takes_names;
        host = "127.0.0.1".to_owned();
    }
    let origin = TcpStream::connect((host, port)).await;
    match origin {
        Ok(origin) if granted => {
            conn.send([0, 90, 0, 0, 0, 0, 0, 0]).await;
            tunnel(conn, origin).await;
        }
        _ => {
            conn.send([0, 91, 0, 0, 0, 0, 0, 0]).await;
            conn.closed().await;
        }
    }
}

/// At least so many bytes; fewer if the client closes.
async fn exactly(conn: &mut Conn, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let more = conn.read().await;
        if more.is_empty() {
            break;
        }
        bytes.extend(more);
    }
    bytes
}

/// Passes bytes on, both ways, until one side closes.
async fn tunnel(mut conn: Conn, mut origin: TcpStream) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            sent = conn.read() => match sent.len() {
                0 => return,
                _ if origin.write_all(&sent).await.is_err() => return,
                _ => {}
            },
            answered = origin.read(&mut bytes) => match answered {
                Ok(length @ 1..) => conn.send(&bytes[..length]).await,
                _ => return conn.fin().await,
            },
        }
    }
}

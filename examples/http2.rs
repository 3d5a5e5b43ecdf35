//! Many requests over one connection of HTTP/2, to a server of this example's own.
//!
//! `cargo run --example http2 --features http2`

use http::{Response, Version};
use tokio::net::TcpListener;
use tower_keep_alive::{BoxError, KeepAlive, Protocol};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(serve(listener));

    // In the clear nothing is negotiated: this server is known to speak HTTP/2. With `https` the client offers both versions
    // by itself, and `protocol` is not needed.
    let agent = KeepAlive::builder().protocol(Protocol::Http2).build();

    let requests: Vec<_> = (0..100)
        .map(|_| {
            let (agent, url) = (agent.clone(), url.clone());
            tokio::spawn(async move { agent.get(url).await?.into_body().text(1024).await })
        })
        .collect();
    for request in requests {
        assert_eq!(request.await??, "hello");
    }

    let response = agent.get(&url).await?;
    assert_eq!(response.version(), Version::HTTP_2);
    let connection = response.body().connection().clone();
    response.into_body().text(1024).await?;
    println!(
        "{} requests on connection {}",
        connection.uses(),
        connection.id()
    );
    println!("{}", agent.handle().status());
    assert_eq!(agent.handle().status().created, 1);
    Ok(())
}

/// Answers each request with a word.
async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(stream).await?;
            while let Some(request) = connection.accept().await {
                let (_, mut respond) = request?;
                let mut body = respond.send_response(Response::new(()), false)?;
                body.send_data("hello".into(), true)?;
            }
            Ok::<_, h2::Error>(())
        });
    }
}

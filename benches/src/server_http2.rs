//! The server that the clients ask over HTTP/2, by prior knowledge: h2's, without anything around it.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::task::{LocalSet, spawn_local};

/// As many streams as any bench has callers, and more.
const STREAMS: u32 = 1_000;

/// Does not return.
pub(crate) fn run(tell: impl FnOnce(SocketAddr)) {
    let runtime = Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        tell(listener.local_addr().expect("it is bound"));
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                spawn_local(serve(stream));
            }
        }
    });
}

async fn serve(stream: TcpStream) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(STREAMS);
    let Ok(mut connection) = builder.handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        // The client may have given the stream up.
        let _ = answer(&request, respond);
    }
}

/// Answers `/LENGTH` with so many bytes.
fn answer(
    request: &Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let length = request.uri().path()[1..].parse();
    let body = vec![b'.'; length.expect("the path is a length")];
    let mut stream = respond.send_response(Response::new(()), false)?;
    stream.send_data(body.into(), true)
}

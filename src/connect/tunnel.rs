//! A tunnel through an HTTP proxy: `CONNECT` (RFC 9110 §9.3.6).
//!
//! hyper-util's `Tunnel` (0.1.21) accepts no status but 200, keeps neither the status nor the fields of a refusal, does
//! not support interim responses, and drops the bytes that it read beyond the head. So the request is sent on a client
//! connection of hyper, which is taken apart after the proxy has answered.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::uri::Authority;
use http::{Request, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connect::proxy_conn::ProxyConn;
use crate::error::connect::ConnectError;
use crate::error::{BoxError, Error, Instead, Kind};
use crate::target::proxy::{Proxy, Refusal};

/// Asks the proxy at the other end of `hop` for a tunnel to `target`, and returns the transport.
pub(super) async fn tunnel<C>(
    hop: ProxyConn<C>,
    proxy: &Proxy,
    target: Authority,
) -> Result<C, BoxError>
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Field names in the case that Go, curl and hyper-util use, because some proxies compare names with regard to case.
    let mut http1 = Builder::new();
    http1.title_case_headers(true);
    let (mut sender, mut connection) = http1.handshake(TokioIo::new(hop)).await?;
    let answer = sender.send_request(asking(proxy, &target)?);
    let mut ended = None;
    let answered = {
        let mut answer = pin!(answer);
        poll_fn(|cx| {
            if ended.is_none()
                && let Poll::Ready(end) = connection.poll_without_shutdown(cx)
            {
                ended = Some(end);
            }
            match (answer.as_mut().poll(cx), &mut ended) {
                (Poll::Ready(response), _) => Poll::Ready(response.map_err(BoxError::from)),
                (Poll::Pending, Some(end)) => Poll::Ready(Err(match end {
                    Err(_) => "the connection to the proxy failed".into(),
                    Ok(()) => io::Error::from(io::ErrorKind::UnexpectedEof).into(),
                })),
                (Poll::Pending, None) => Poll::Pending,
            }
        })
        .await
    };
    let response = match answered {
        Ok(response) => response,
        Err(error) => {
            let begins = connection.into_parts().read_buf;
            return Err(match Instead::of_http1(&begins) {
                Some(Instead::Tls) => {
                    let why = "the proxy seems to speak TLS on this port: its URI has to begin with https://";
                    ConnectError::Protocol(why.into(), Some(error)).into()
                }
                _ => error,
            });
        }
    };
    let status = response.status();
    if !status.is_success() {
        let (head, _) = response.into_parts();
        let refusal = Refusal::new(proxy, target, status, head.headers);
        let error = Error::new(Kind::Refused(Box::new(refusal)));
        return Err(error.unsent().into());
    }
    // After a 204, hyper waits for the next request, which never comes.
    drop(sender);
    if ended.is_none() {
        poll_fn(|cx| connection.poll_without_shutdown(cx)).await?;
    }
    let parts = connection.into_parts();
    if !parts.read_buf.is_empty() {
        // In HTTP/1 and in TLS, the client sends first.
        let length = parts.read_buf.len();
        return Err(format!("{length} bytes came behind the proxy's answer, unasked").into());
    }
    Ok(parts.io.into_inner().into_inner())
}

fn asking(proxy: &Proxy, target: &Authority) -> Result<Request<Empty<Bytes>>, BoxError> {
    let mut request = Request::connect(Uri::from(target.clone())).body(Empty::new())?;
    let fields = request.headers_mut();
    fields.insert(HOST, HeaderValue::try_from(target.as_str())?);
    for (name, value) in proxy.fields() {
        fields.insert(name, value.clone());
    }
    Ok(request)
}

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::Scheme;
use socket2::SockRef;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tower_service::Service;

use crate::connect::Socket;
use crate::connect::connecting::Connecting;
use crate::connect::socket::Halves;
use crate::connect::times;
use crate::error::connect::{ConnectError, reason_at};
use crate::error::{BoxError, Error, Kind};
use crate::target::Destination;
use crate::target::invalid::TargetError;

/// Connects to Unix sockets: to the path of a request's [`Route`](crate::extensions::Route), or else to the connector's own path.
///
/// Connections are pooled, queued and limited like TCP connections. The host of a URI is not looked up: it only sets
/// the `Host` field and, with the path, the name of the pool (Node: `localhost:80::/path.sock`). Only `http` URIs are
/// supported.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Empty;
/// use tower::ServiceBuilder;
/// use tower_keep_alive::connect::UnixConnector;
/// use tower_keep_alive::{KeepAlive, KeepAliveLayer, connect::Destination};
///
/// // One socket for every request:
/// let docker: KeepAlive<UnixConnector, Empty<Bytes>> = ServiceBuilder::new()
///     .layer(KeepAliveLayer::new())
///     .service(UnixConnector::at("/run/docker.sock"));
///
/// // Each request names its own, by a `Route`:
/// let any: KeepAlive<UnixConnector, Empty<Bytes>> = ServiceBuilder::new()
///     .layer(KeepAliveLayer::new())
///     .service(UnixConnector::new());
/// # let _ = (docker, any);
/// ```
///
/// # Errors
///
/// If neither the route nor the connector has a path, the error is [`is_target`](crate::Error::is_target). If the
/// connect fails (no such file, no listener, no permission), the text names the path and what to do, and the source is the
/// system's error. If the server's backlog is full, the connect is repeated until the pool's connect timeout.
#[derive(Clone, Debug, Default)]
pub struct UnixConnector {
    path: Option<Arc<Path>>,
}

impl UnixConnector {
    /// A connector for requests whose routes have a path.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A connector for one path, unless the route of a request has another one.
    #[must_use]
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self {
            path: Some(path.as_ref().into()),
        }
    }

    fn path(&self, destination: &Destination) -> Result<Arc<Path>, BoxError> {
        let refuse = |why| Err(Error::new(Kind::Target(TargetError::Route(why))).into());
        if *destination.scheme() != Scheme::HTTP && !destination.is_secured() {
            return Err(Error::new(Kind::Target(TargetError::NoTls)).into());
        }
        let route = destination.route();
        if route.is_some_and(|it| {
            it.local_address().is_some() || it.family().is_some() || it.address().is_some()
        }) {
            return refuse("the route names an address, and Unix sockets have none");
        }
        if route.is_some_and(|route| route.has_proxy()) {
            return refuse("the route names a proxy, and a Unix socket leads to none");
        }
        match (route.and_then(|route| route.unix_path()), &self.path) {
            (Some(path), _) => Ok(path.into()),
            (None, Some(path)) => Ok(path.clone()),
            (None, None) => refuse("no Unix socket is named, by a route or by the connector"),
        }
    }
}

impl<T> Service<T> for UnixConnector
where
    T: TryInto<Destination>,
    T::Error: Into<BoxError>,
{
    type Response = Unix;
    type Error = BoxError;
    type Future = Connecting<Unix>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: T) -> Connecting<Unix> {
        let path = match target.try_into() {
            Ok(destination) => self.path(&destination),
            Err(error) => Err(error.into()),
        };
        Connecting::new(async move {
            let path = path?;
            match times::part(|times| &mut times.connect, connect(&path)).await {
                Ok(stream) => Ok(Unix::new(stream)),
                Err(error) => {
                    let why = reason_at(&path, &error);
                    let tried = format!("connect to {why}{}", remedy(error.kind()));
                    Err(ConnectError::caused_by(tried, error).into())
                }
            }
        })
    }
}

/// What to do about a socket that cannot be connected to.
fn remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => "; start the server that makes it, or correct the path",
        io::ErrorKind::ConnectionRefused => "; no server listens there now: start it",
        io::ErrorKind::PermissionDenied => "; let the user of this process write to it",
        _ => "",
    }
}

/// A non-blocking connect of a Unix socket fails if the backlog is full, where that of TCP waits.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    let mut pause = Duration::from_millis(1);
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            connected => return connected,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// A Unix socket that can be probed while a connection's driver owns it.
pub type Unix = Socket<UnixStream>;

impl Unix {
    /// Wraps a stream that was connected elsewhere.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self::of(stream)
    }
}

impl Halves for UnixStream {
    type Reader = OwnedReadHalf;
    type Writer = OwnedWriteHalf;

    fn into_halves(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        self.into_split()
    }

    fn forget(writer: OwnedWriteHalf) {
        writer.forget();
    }

    #[inline]
    fn socket(&self) -> SockRef<'_> {
        SockRef::from(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::transport;
    use crate::connection::poolable::Liveness;

    /// The runtime has no turn in between: it is the socket that is asked.
    #[tokio::test]
    async fn node_58_the_probe_sees_bytes_and_ends_at_once() {
        let (here, there) = UnixStream::pair().unwrap();
        let unix = Unix::new(here);
        let probe = transport::probe(&unix).expect("one of ours");
        assert_eq!(probe.check(), Liveness::Open);
        assert_eq!(there.try_write(b"stray").unwrap(), 5);
        assert_eq!(probe.check(), Liveness::Dead);

        let (here, there) = UnixStream::pair().unwrap();
        let unix = Unix::new(here);
        let probe = transport::probe(&unix).expect("one of ours");
        assert_eq!(probe.check(), Liveness::Open);
        drop(there);
        assert_eq!(probe.check(), Liveness::Dead);

        let (here, _there) = UnixStream::pair().unwrap();
        let unix = Unix::new(here);
        let probe = transport::probe(&unix).expect("one of ours");
        drop(unix);
        assert_eq!(probe.check(), Liveness::Dead);
    }
}

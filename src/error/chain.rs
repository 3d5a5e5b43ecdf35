//! Searches an error and its sources.

use std::error::Error as StdError;
use std::io::{self, ErrorKind};

#[cfg(feature = "tls")]
use tokio_rustls::rustls;

use crate::error::{CheckoutError, Denied, Error, RequestBodyError};

type Any = dyn StdError + 'static;

/// An error and its sources.
fn chain(error: &Any) -> impl Iterator<Item = &Any> {
    std::iter::successors(Some(error), |&error| {
        // `source` of an I/O error that wraps another error skips the wrapped one and returns its source.
        let io = error.downcast_ref::<io::Error>();
        match io.and_then(io::Error::get_ref) {
            Some(held) => Some(held),
            None => error.source(),
        }
    })
}

pub(crate) fn find<E: StdError + 'static>(error: &Any) -> Option<&E> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// The error that was found in an error of a layer above.
pub(super) enum Found<'a> {
    Agents(&'a Error),
    /// A time limit above the agent was exceeded.
    Elapsed,
}

pub(super) fn agents_or_elapsed(error: &Any) -> Option<Found<'_>> {
    chain(error).find_map(|error| match error.downcast_ref() {
        Some(error) => Some(Found::Agents(error)),
        None => is_elapsed(error).then_some(Found::Elapsed),
    })
}

fn is_elapsed(error: &Any) -> bool {
    error.is::<tower::timeout::error::Elapsed>() || error.is::<tokio::time::error::Elapsed>()
}

/// The error of the pool below, inside the errors of layers in between. Not that of another agent's pool, which a
/// connector may use.
pub(super) fn denied(error: &Any) -> Option<Denied> {
    for error in chain(error) {
        if let Some(error) = error.downcast_ref::<CheckoutError>() {
            return match error {
                CheckoutError::Denied(denied) => Some(*denied),
                CheckoutError::Connect(_) => None,
            };
        }
        if let Some(denied) = error.downcast_ref::<Denied>() {
            return Some(*denied);
        }
        if error.is::<Error>() {
            return None;
        }
    }
    None
}

/// Whether a connector, or anything that it uses, has timed out.
pub(super) fn has_timed_out(error: &Any) -> bool {
    for error in chain(error) {
        if let Some(agent) = error.downcast_ref::<Error>() {
            return agent.is_timeout();
        }
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == ErrorKind::TimedOut) || is_elapsed(error) {
            return true;
        }
    }
    false
}

/// Recognises every form in which hyper and the transport report the end of a connection. hyper has no single predicate
/// for them: IncompleteMessage is a kind of its own, and a reset is reported as an I/O error or as a failed write of a
/// body, even for a GET without a body.
///
/// Only what hyper, h2 or the transport itself says counts. What begins with another error is a layer's own.
pub(crate) fn is_reset(error: &Any, reused: bool) -> bool {
    #[cfg(feature = "http2")]
    let of_http2 = error.is::<crate::error::Http2Fault>();
    #[cfg(not(feature = "http2"))]
    let of_http2 = false;
    if !error.is::<hyper::Error>() && !error.is::<io::Error>() && !of_http2 {
        return false;
    }
    for error in chain(error) {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            // The caller's fault: its body, or its use of the connection.
            if error.is_user() {
                return false;
            }
            if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
                return true;
            }
        } else if let Some(error) = error.downcast_ref::<io::Error>() {
            let kind = error.kind();
            if kind == ErrorKind::UnexpectedEof || is_gone(kind, reused) {
                return true;
            }
        } else if error.is::<Error>() || error.is::<RequestBodyError>() {
            return false;
        }
    }
    false
}

/// Whether the peer has closed the connection or, if it was `reused`, the network path to the peer is broken.
pub(crate) fn is_gone(kind: ErrorKind, reused: bool) -> bool {
    match kind {
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => true,
        ErrorKind::TimedOut
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown => reused,
        _ => false,
    }
}

/// Whether the peer's certificate was rejected in a handshake.
#[cfg(feature = "tls")]
pub(super) fn is_of_certificate(error: &Any) -> bool {
    use rustls::Error::{InvalidCertRevocationList, InvalidCertificate, NoCertificatesPresented};
    matches!(
        find::<rustls::Error>(error),
        Some(InvalidCertificate(_) | InvalidCertRevocationList(_) | NoCertificatesPresented)
    )
}

/// Whether hyper reports that the request's own body failed. It reports a connection whose driver is gone in the same way, unless
/// that was told apart before (`DriverGone`).
pub(super) fn is_of_body(error: &Any) -> bool {
    let error = error.downcast_ref::<hyper::Error>();
    error.is_some_and(|error| error.is_user() && error.source().is_some())
}

/// The first I/O error with a number of the system's, or else the last I/O error.
pub(super) fn io_error(error: &Any) -> Option<&io::Error> {
    let mut last = None;
    for error in chain(error) {
        if error.is::<RequestBodyError>() {
            break;
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if error.raw_os_error().is_some() {
                return Some(error);
            }
            last = Some(error);
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;
    use crate::error::BoxError;

    /// An error of a layer's own.
    #[derive(Debug)]
    struct Own(BoxError);

    impl fmt::Display for Own {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a layer's own")
        }
    }

    impl StdError for Own {
        fn source(&self) -> Option<&Any> {
            Some(&*self.0)
        }
    }

    fn io(kind: ErrorKind) -> io::Error {
        kind.into()
    }

    #[test]
    fn only_what_the_transport_says_is_a_reset() {
        for (kind, fresh, reused) in [
            (ErrorKind::ConnectionReset, true, true),
            (ErrorKind::ConnectionAborted, true, true),
            (ErrorKind::BrokenPipe, true, true),
            (ErrorKind::UnexpectedEof, true, true),
            (ErrorKind::TimedOut, false, true),
            (ErrorKind::HostUnreachable, false, true),
            (ErrorKind::NetworkUnreachable, false, true),
            (ErrorKind::NetworkDown, false, true),
            (ErrorKind::InvalidData, false, false),
        ] {
            for (is_reused, expected) in [(false, fresh), (true, reused)] {
                assert_eq!(is_reset(&io(kind), is_reused), expected, "{kind}");
                // As a transport wraps it: TLS, and whatever is around that.
                let held = io::Error::other(Own(io(kind).into()));
                assert_eq!(is_reset(&held, is_reused), expected, "{kind}");
                // As a layer does.
                assert!(!is_reset(&Own(io(kind).into()), is_reused), "{kind}");
                let of_body = RequestBodyError::failed(io(kind));
                assert!(!is_reset(&io::Error::other(of_body), is_reused), "{kind}");
                let of_agent = Error::from_send(io(kind).into(), false);
                assert!(!is_reset(&io::Error::other(of_agent), is_reused), "{kind}");
            }
        }
    }

    #[test]
    fn what_a_pool_denies_is_found_in_layers_and_not_below_a_connector() {
        let full = || CheckoutError::from(Denied::QueueFull(1));
        for (error, expected) in [
            (BoxError::from(full()), true),
            (Denied::QueueFull(1).into(), true),
            (Own(full().into()).into(), true),
            (io::Error::other(Own(full().into())).into(), true),
            (CheckoutError::Connect(full().into()).into(), false),
            (
                Own(CheckoutError::Connect(full().into()).into()).into(),
                false,
            ),
            (Error::from_checkout(full().into()).into(), false),
        ] {
            let found = denied(&*error);
            assert_eq!(found.is_some(), expected, "{error:?}");
        }
    }

    #[test]
    fn what_a_layer_adds_to_what_a_pool_denies_is_kept() {
        let full = || BoxError::from(Denied::QueueFull(1));
        let error = Error::from_checkout(Own(full()).into());
        assert!(error.is_queue_full());
        assert_eq!(error.source().unwrap().to_string(), "a layer's own");
        let adds_nothing = Error::from_checkout(io::Error::other(full()).into());
        assert!(adds_nothing.is_queue_full() && adds_nothing.source().is_none());
    }

    #[test]
    fn the_system_error_is_the_one_with_a_number() {
        let system = io::Error::from_raw_os_error(1);
        let error = io::Error::other(Own(io::Error::other(Own(system.into())).into()));
        assert_eq!(io_error(&error).unwrap().raw_os_error(), Some(1));
        let without = io::Error::other(Own(io(ErrorKind::TimedOut).into()));
        assert_eq!(io_error(&without).unwrap().kind(), ErrorKind::TimedOut);
        assert!(io_error(&Own("text".into())).is_none());
        let of_body = Own(RequestBodyError::failed(io(ErrorKind::TimedOut)).into());
        assert!(io_error(&of_body).is_none());
    }
}

//! What an error says.

use std::error::Error as StdError;
use std::fmt;

use crate::error::predicates::is_large_head;
use crate::error::{Error, Instead, Kind, TimeoutKind, checkout, find};

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("text", &format_args!("{self}"))
            .field("kind", &self.0.kind)
            .field("unsent", &self.0.unsent)
            .field("connection", &self.0.connection)
            .field("source", &self.0.source)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.kind {
            Kind::Target(fault) => return fault.fmt(f),
            Kind::RequestBody(fault) => return fault.fmt(f),
            Kind::Connect { .. } => match self.connect_error() {
                Some(error) => write!(f, "cannot {error}")?,
                None => match &self.0.to {
                    Some(to) => write!(f, "cannot connect to {to}")?,
                    None => f.write_str("cannot connect")?,
                },
            },
            #[cfg(feature = "proxy")]
            Kind::Refused(refusal) => refusal.fmt(f)?,
            Kind::Timeout(TimeoutKind::Connect, after) => match &self.0.to {
                Some(to) => write!(f, "no connection to {to} within {after:?}")?,
                None => write!(f, "no connection within {after:?}")?,
            },
            Kind::Timeout(TimeoutKind::Checkout, after) => {
                write!(f, "no connection came free within {after:?}")?;
            }
            Kind::Timeout(TimeoutKind::Inactivity, after) => {
                write!(f, "nothing moved on the connection for {after:?}")?;
            }
            Kind::Timeout(TimeoutKind::Close, after) => checkout::write_cannot_close(f, *after)?,
            Kind::Timeout(TimeoutKind::Request, after) => {
                write!(f, "the request was not over within {after:?}")?;
            }
            Kind::Timeout(TimeoutKind::Response, after) => {
                write!(f, "no response within {after:?} after the request was sent")?;
            }
            Kind::Timeout(TimeoutKind::Ping, after) => write!(
                f,
                "the server did not answer an HTTP/2 PING within {after:?}: it is gone, or needs a longer \
                 Http2::ping_timeout"
            )?,
            Kind::QueueFull(limit) => {
                write!(
                    f,
                    "the queue for a connection is full: max_pending_per_host is {limit}"
                )?;
            }
            Kind::Elapsed => f.write_str("a time limit above the agent was over")?,
            Kind::ShutDown => f.write_str("the agent is shut down")?,
            Kind::Exchange => write_failed_exchange(self, f)?,
            Kind::Body => f.write_str("the response body could not be read to its end")?,
            Kind::TooLarge(limit) => {
                return write!(f, "the body of the response is longer than {limit} bytes");
            }
            Kind::Decode(what) => return write!(f, "the body of the response is not {what}"),
        }
        if self.is_reused() {
            f.write_str(" (reused connection)")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match (self.connect_error(), &self.0.source) {
            // Its text is part of this error's text.
            (Some(error), _) => error.source(),
            (None, Some(source)) => Some(&**source),
            (None, None) => None,
        }
    }
}

/// There was a connection, and no response on it.
fn write_failed_exchange(error: &Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    #[cfg(feature = "http2")]
    if let Some(why) = error.http1_required() {
        return f.write_str(why);
    }
    if let Some(instead) = error.instead() {
        return f.write_str(error.remedy(instead));
    }
    #[cfg(feature = "http2")]
    if error.may_not_be_http2() {
        return f.write_str(
            "the connection was closed or lost before the server sent anything: it may not speak HTTP/2 without negotiation; \
             for HTTP/1, send the request with Version::HTTP_11, and without Protocol::Http2",
        );
    }
    #[cfg(feature = "http2")]
    if error.has_large_fields() {
        return f.write_str(
            "the head of the response has more bytes than it may: see Http2::max_header_list_size",
        );
    }
    if error.0.unsent {
        return f.write_str("the request could not be sent");
    }
    if error.is_reset() {
        return f.write_str("the connection was closed or lost before a response");
    }
    match error.source().and_then(find::<hyper::Error>) {
        Some(of_hyper) if is_large_head(of_hyper) => f.write_str(
            "the head of the response has more fields or bytes than it may: raise KeepAliveLayer::max_response_fields, or \
             max_buf_size of hyper's builder in KeepAliveLayer::http1",
        ),
        Some(of_hyper) if of_hyper.is_parse() || find::<Instead>(of_hyper).is_some() => {
            f.write_str("what the server sent is not a valid HTTP/1 response")
        }
        _ => f.write_str("no response"),
    }
}

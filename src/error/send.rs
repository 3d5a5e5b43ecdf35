use std::error::Error as StdError;
use std::fmt;
use std::io;

use http::Request;

use crate::error::BoxError;

/// Why a connection gave no response, with the request if none of it was written.
pub struct SendError<B> {
    error: BoxError,
    /// The whole request, which was never sent. Boxed, because it is rare, and every result is moved.
    unsent: Option<Box<Request<B>>>,
    /// Nothing of the request was written. Always true if the request is returned; may be true if it cannot be
    /// returned.
    nothing_written: bool,
    /// The request of a body that gave frames before anything was written. The frames are in its extensions, and are
    /// sent first when the request is sent again.
    begun: Option<Box<Request<B>>>,
}

impl<B> SendError<B> {
    /// For a request that was written, or may have been written in part.
    ///
    /// An `error` of the transport should be hyper's error or an [`io::Error`]:
    /// [`Error::is_reset`](crate::Error::is_reset) recognises only these. Any other error counts as an error of a
    /// layer.
    pub fn new(error: impl Into<BoxError>) -> Self {
        Self {
            error: error.into(),
            unsent: None,
            nothing_written: false,
            begun: None,
        }
    }

    /// For a request of which nothing was written. Pass the request if it is still complete:
    /// [`Exchange`](crate::layers::Exchange) then sends it on another connection, provided that this one had been used before.
    ///
    /// ```
    /// use http::Request;
    /// use tower_keep_alive::layers::SendError;
    ///
    /// let request = Request::new("body");
    /// let error = SendError::unsent("the connection has closed", Some(Box::new(request)));
    /// assert!(error.is_unsent());
    /// assert_eq!(error.into_unsent().unwrap().into_body(), "body");
    /// ```
    pub fn unsent(error: impl Into<BoxError>, request: Option<Box<Request<B>>>) -> Self {
        Self {
            unsent: request,
            nothing_written: true,
            ..Self::new(error)
        }
    }

    /// The error; see [`new`](Self::new).
    #[must_use]
    pub fn error(&self) -> &BoxError {
        &self.error
    }

    /// Whether nothing of the request was written.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        self.nothing_written || self.unsent.is_some()
    }

    /// The whole request, if nothing of it was written and it is still complete.
    #[must_use]
    pub fn into_unsent(self) -> Option<Request<B>> {
        self.unsent.map(|request| *request)
    }

    /// Nothing was written; the frames that the body has given are in the request's extensions.
    pub(crate) fn begun(error: impl Into<BoxError>, request: Box<Request<B>>) -> Self {
        Self {
            begun: Some(request),
            ..Self::unsent(error, None)
        }
    }

    /// The request, to be sent on another [`HttpConnection`](crate::layers::HttpConnection). Unlike
    /// [`into_unsent`](Self::into_unsent), it also returns a request whose body has given frames, although nothing was
    /// written. These frames are in the request's extensions, and an `HttpConnection` sends them first; any other
    /// reader of the body misses its beginning.
    #[must_use]
    pub fn into_request(self) -> Option<Request<B>> {
        self.into_parts().2
    }

    /// The error, whether nothing was written, and the request if it can be sent again.
    pub(crate) fn into_parts(self) -> (BoxError, bool, Option<Request<B>>) {
        let nothing_written = self.is_unsent();
        let request = self.unsent.or(self.begun).map(|request| *request);
        (self.error, nothing_written, request)
    }
}

impl<B> fmt::Debug for SendError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError")
            .field("error", &self.error)
            .field("unsent", &self.unsent.is_some())
            .field("begun", &self.begun.is_some())
            .field("nothing_written", &self.nothing_written)
            .finish()
    }
}

impl<B> fmt::Display for SendError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_unsent() {
            "the request was not sent"
        } else {
            "the request has no response"
        })
    }
}

impl<B> StdError for SendError<B> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.error)
    }
}

/// An error of an encrypting transport that had written a part of the data. tokio-rustls returns the plain error then,
/// as if nothing had been written.
#[derive(Debug)]
pub(crate) struct PartlyWritten(io::Error);

impl PartlyWritten {
    #[cfg(feature = "tls")]
    pub(crate) fn wrap(error: io::Error) -> io::Error {
        io::Error::new(error.kind(), Self(error))
    }

    pub(crate) fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|held| held.is::<Self>())
    }
}

impl fmt::Display for PartlyWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the write failed in its middle")
    }
}

impl StdError for PartlyWritten {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_had_back_whole_or_begun() {
        let request = || Box::new(Request::new(7));
        let whole = SendError::unsent("why", Some(request()));
        assert_eq!(whole.into_request().map(Request::into_body), Some(7));
        let begun = SendError::begun("why", request());
        assert!(begun.nothing_written && begun.unsent.is_none());
        assert_eq!(begun.into_request().map(Request::into_body), Some(7));
        assert!(SendError::<()>::new("why").into_request().is_none());
    }
}

//! HTTP/2 errors of a request without a response, or of an incomplete response.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::error::{BoxError, Error, Kind, chain};

/// A stream that was reset, or a connection that its server or this client has ended.
#[derive(Debug)]
pub(crate) struct Http2Fault {
    pub(crate) end: Http2End,
    pub(crate) code: u32,
    /// The debug data of the connection's GOAWAY frame, if there was one.
    pub(crate) debug_data: Vec<u8>,
    /// How the transport ended; or, after HTTP_1_1_REQUIRED, why there was no response over HTTP/1.1.
    pub(crate) source: Option<BoxError>,
}

/// Who ended what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http2End {
    /// The server reset the stream.
    Reset,
    /// The server ended the connection and has not seen the request: a GOAWAY with the id of an earlier stream.
    GoAway,
    /// The server ended the connection by a GOAWAY, and closed it before it had answered the request.
    Closed,
    /// This client found a violation of the protocol, and ended the connection.
    Own,
    /// This client found a violation of the protocol in the stream alone, or cancelled the stream.
    OwnReset,
    /// The fields of the response are larger than this client allows.
    TooLarge,
}

/// The error codes of RFC 9113 §7, by number.
const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    REFUSED_STREAM_NAME,
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

const REFUSED_STREAM_NAME: &str = "REFUSED_STREAM";
const REFUSED_STREAM: u32 = 7;

const HTTP_1_1_REQUIRED: u32 = 13;

impl Http2Fault {
    /// Whether the server has certainly not acted on the request (RFC 9113 §8.7).
    pub(crate) fn is_refused(&self) -> bool {
        match self.end {
            Http2End::Reset => self.code == REFUSED_STREAM,
            // After HTTP_1_1_REQUIRED the request was sent over HTTP/1.1.
            Http2End::GoAway => self.source.is_none(),
            Http2End::Closed | Http2End::Own | Http2End::OwnReset | Http2End::TooLarge => false,
        }
    }

    /// Whether this client has ended the stream or the connection by itself.
    fn is_own(&self) -> bool {
        matches!(self.end, Http2End::Own | Http2End::OwnReset)
    }
}

impl fmt::Display for Http2Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.end {
            Http2End::Reset => "the server reset the stream: ",
            Http2End::GoAway => "the server takes no more requests on the connection: ",
            Http2End::Closed => "the server ended the connection: ",
            Http2End::Own => "the connection was ended here: ",
            Http2End::OwnReset => "the stream was ended here: ",
            Http2End::TooLarge => {
                "more header fields or trailers than Http2::max_header_list_size allows: "
            }
        })?;
        match CODES.get(self.code as usize) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "error code {}", self.code)?,
        }
        if !self.debug_data.is_empty() {
            write!(f, " ({:?})", String::from_utf8_lossy(&self.debug_data))?;
        }
        Ok(())
    }
}

impl StdError for Http2Fault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.source {
            Some(source) => Some(&**source),
            None => None,
        }
    }
}

/// The connection ended before the server had sent a byte.
#[derive(Debug)]
pub(crate) struct SaidNothing(pub(crate) io::Error);

impl fmt::Display for SaidNothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection ended before the server sent anything")
    }
}

impl StdError for SaidNothing {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

impl Error {
    /// The fields of a response over HTTP/2 are larger than allowed.
    pub(super) fn has_large_fields(&self) -> bool {
        matches!(self.0.kind, Kind::Exchange | Kind::Body)
            && self
                .http2_fault()
                .is_some_and(|fault| fault.end == Http2End::TooLarge)
    }

    /// The stream has ended alone.
    pub(super) fn is_of_stream(&self) -> bool {
        let ends = [Http2End::Reset, Http2End::OwnReset, Http2End::TooLarge];
        self.http2_fault().is_some_and(|it| ends.contains(&it.end))
    }

    fn http2_fault(&self) -> Option<&Http2Fault> {
        self.source().and_then(chain::find)
    }

    /// The server requires HTTP/1.1 for the request.
    pub(crate) fn wants_http1(&self) -> bool {
        self.http2_fault()
            .is_some_and(|fault| !fault.is_own() && fault.code == HTTP_1_1_REQUIRED)
    }

    /// The error of a request for which the server had required HTTP/1.1, as `required` says, and that got no response over
    /// HTTP/1.1 either. It has the reason of HTTP/2, and the failure over HTTP/1.1 as its source.
    pub(crate) fn after_http1_required(mut self, required: Self) -> Self {
        if !matches!(self.0.kind, Kind::Exchange) || self.wants_http1() {
            return self;
        }
        let fault = required
            .0
            .source
            .map(|source| source.downcast::<Http2Fault>());
        if let Some(Ok(mut fault)) = fault {
            fault.source = self.0.source.take();
            self.0.source = Some(fault);
        }
        self
    }

    /// The server requires HTTP/1.1 for the request, which was not sent over HTTP/1.1.
    pub(super) fn is_http1_unasked(&self) -> bool {
        self.http1_required().is_some()
            && self
                .http2_fault()
                .is_some_and(|fault| fault.source.is_none())
    }

    /// Why there is no response to a request for which the server requires HTTP/1.1.
    pub(super) fn http1_required(&self) -> Option<&'static str> {
        if !matches!(self.0.kind, Kind::Exchange) || !self.wants_http1() {
            return None;
        }
        Some(match self.http2_fault()?.source {
            Some(_) => {
                "the server requires HTTP/1.1 for this request (HTTP_1_1_REQUIRED), and gave no response over HTTP/1.1"
            }
            None => {
                "the server requires HTTP/1.1 for this request (HTTP_1_1_REQUIRED): send it with Protocol::Http1"
            }
        })
    }

    /// The code with which the server has ended the connection, if it did before it took the request.
    pub(crate) fn go_away_code(&self) -> Option<u32> {
        let fault = self.http2_fault()?;
        (fault.end == Http2End::GoAway).then_some(fault.code)
    }

    /// The server has not acted on the request: it reset the stream with REFUSED_STREAM, or ended the connection by a
    /// GOAWAY with an earlier stream (RFC 9113 §8.7). It is safe to send the request again, whatever its method.
    ///
    /// The agent does so by itself if it still has the whole request. The caller gets this error if more of the
    /// request's body was sent than the agent keeps, or if the request was refused several times in a row.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.http2_fault().is_some_and(Http2Fault::is_refused)
    }

    /// The error code of RFC 9113 §7 with which a stream was reset or a connection ended, by the server or by this
    /// client: 7 for REFUSED_STREAM, 11 for ENHANCE_YOUR_CALM, 13 for HTTP_1_1_REQUIRED.
    #[must_use]
    pub fn http2_reason(&self) -> Option<u32> {
        self.http2_fault().map(|fault| fault.code)
    }

    /// The debug data of the connection's GOAWAY frame, at most 1 KiB of it, if there was any. It is meant for people,
    /// in whatever form the server has chosen.
    #[must_use]
    pub fn goaway_debug_data(&self) -> Option<&[u8]> {
        let fault = self.http2_fault()?;
        (!fault.debug_data.is_empty()).then_some(&fault.debug_data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(end: Http2End, code: u32) -> Error {
        let fault = Http2Fault {
            end,
            code,
            debug_data: b"why".to_vec(),
            source: (end == Http2End::Closed)
                .then(|| io::Error::from(io::ErrorKind::BrokenPipe).into()),
        };
        Error::from_send(BoxError::from(fault), false)
    }

    #[test]
    fn what_the_server_has_not_acted_on_is_told() {
        assert_eq!(CODES[REFUSED_STREAM as usize], REFUSED_STREAM_NAME);
        for (end, code, refused, text) in [
            (Http2End::Reset, 7, true, "REFUSED_STREAM"),
            (Http2End::Reset, 8, false, "CANCEL"),
            (Http2End::GoAway, 0, true, "NO_ERROR"),
            (Http2End::GoAway, 11, true, "ENHANCE_YOUR_CALM"),
            (Http2End::Closed, 2, false, "INTERNAL_ERROR"),
            (Http2End::Own, 7, false, "REFUSED_STREAM"),
            (Http2End::OwnReset, 7, false, "REFUSED_STREAM"),
            (Http2End::TooLarge, 1, false, "max_header_list_size"),
            (Http2End::Reset, 99, false, "error code 99"),
        ] {
            let error = error(end, code);
            assert_eq!(error.is_refused(), refused, "{error:?}");
            assert_eq!(error.is_reset(), end == Http2End::Closed, "{error:?}");
            assert_eq!(error.is_too_large(), end == Http2End::TooLarge);
            let is_of_connection = [Http2End::GoAway, Http2End::Closed, Http2End::Own];
            assert_ne!(error.is_of_exchange(), is_of_connection.contains(&end));
            assert_eq!(error.http2_reason(), Some(code));
            assert_eq!(error.goaway_debug_data(), Some(&b"why"[..]));
            let source = error.source().unwrap().to_string();
            assert!(source.contains(text), "{source}");
        }
    }

    #[test]
    fn an_end_before_the_server_sent_anything_says_so_and_keeps_its_cause() {
        let cause = io::Error::new(io::ErrorKind::BrokenPipe, "as the transport says");
        let said_nothing = io::Error::new(cause.kind(), SaidNothing(cause));
        let error = Error::from_send(said_nothing.into(), false);
        assert!(error.is_reset() && error.may_not_be_http2(), "{error:?}");
        let (mut source, mut texts) = (error.source(), Vec::new());
        while let Some(of) = source {
            texts.push(of.to_string());
            source = of.source();
        }
        let said = "the connection ended before the server sent anything";
        assert_eq!(texts, [said, "as the transport says"]);
    }
}

use std::error::Error as StdError;
use std::fmt;

/// The request's own body failed. The caller is the cause, not the transport.
#[derive(Debug)]
pub(crate) struct RequestBodyError {
    pub(crate) fault: BodyFault,
    /// The body's error, if it has one.
    pub(crate) source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What is wrong with the body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFault {
    Failed,
    Longer { announced: u64 },
    Shorter { announced: u64, given: u64 },
}

impl RequestBodyError {
    pub(crate) fn failed(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            fault: BodyFault::Failed,
            source: Some(source.into()),
        }
    }
}

impl From<BodyFault> for RequestBodyError {
    fn from(fault: BodyFault) -> Self {
        Self {
            fault,
            source: None,
        }
    }
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed => f.write_str("the request's own body failed"),
            Self::Longer { announced } => write!(
                f,
                "the request's own body gives more than the {announced} bytes of its Content-Length"
            ),
            Self::Shorter { announced, given } => write!(
                f,
                "the request's own body ends after {given} of the {announced} bytes of its Content-Length"
            ),
        }
    }
}

impl fmt::Display for RequestBodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl StdError for RequestBodyError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.source {
            Some(source) => Some(&**source),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_the_body_failed_is_the_source() {
        let error = RequestBodyError::failed("the file is gone");
        let source = error.source().expect("the body's own error");
        assert_eq!(source.to_string(), "the file is gone");
        let too_long = RequestBodyError::from(BodyFault::Longer { announced: 2 });
        assert!(too_long.source().is_none());
    }
}

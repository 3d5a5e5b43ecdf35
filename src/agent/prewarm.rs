//! Makes connections in advance, by all services of an agent.

use std::error::Error as StdError;
use std::fmt;
use std::future::poll_fn;
use std::task::Poll;

use crate::agent::Prewarming;
use crate::error::Error;

/// Why not all connections could be made in advance: the first connect that failed, and how many succeeded.
///
/// It converts into the [`Error`] of that connect by `?`, which is also its source.
#[derive(Debug)]
pub struct PrewarmError {
    made: usize,
    error: Error,
}

impl PrewarmError {
    /// How many connections were made, and are idle now.
    #[must_use]
    pub fn made(&self) -> usize {
        self.made
    }

    /// The first connect that failed, as a request would see it.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.error
    }
}

impl fmt::Display for PrewarmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "prewarming failed after {} connections", self.made)
    }
}

impl StdError for PrewarmError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.error)
    }
}

impl From<PrewarmError> for Error {
    fn from(failed: PrewarmError) -> Self {
        failed.error
    }
}

/// How many connections a service has made, and the first connect that failed.
#[derive(Debug, Default)]
pub(crate) struct Prewarmed {
    pub(crate) made: usize,
    pub(crate) failed: Option<Error>,
}

/// Waits for all services at the same time.
pub(super) async fn all(mut warming: Vec<Prewarming>) -> Result<usize, PrewarmError> {
    let mut all = Prewarmed::default();
    poll_fn(|cx| {
        warming.retain_mut(|service| match service.as_mut().poll(cx) {
            Poll::Pending => true,
            Poll::Ready(warmed) => {
                all.made += warmed.made;
                all.failed = all.failed.take().or(warmed.failed);
                false
            }
        });
        if warming.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    match all.failed {
        Some(error) => Err(PrewarmError {
            made: all.made,
            error,
        }),
        None => Ok(all.made),
    }
}

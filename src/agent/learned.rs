use std::fmt;
use std::time::Duration;

/// After how long the server of a key closes idle connections, less a margin; see
/// [`Status::learned`](crate::status::Status::learned).
///
/// It prints as `idle limit 4.6 s, learned from 12 closes`. In JSON the limit is in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LearnedIdleLimit {
    /// How long a connection may be idle.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_millis"))]
    pub limit: Duration,
    /// How many idle connections the server has closed.
    pub closes: u64,
}

#[cfg(feature = "serde")]
fn as_millis<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

impl fmt::Display for LearnedIdleLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, closes) = (self.limit.as_secs_f64(), self.closes);
        write!(f, "idle limit {limit:.1} s, learned from {closes} closes")
    }
}

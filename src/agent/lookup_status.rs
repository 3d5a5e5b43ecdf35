use std::fmt;
use std::time::Duration;

/// How the lookups of a name that is followed have ended; see [`Status::lookups`](crate::status::Status::lookups).
///
/// It prints as `answer of 40 s ago, lookup failing: resolve api.internal: …`, or without the second half. In JSON the age is
/// in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LookupStatus {
    /// How many different addresses the last answer has.
    pub addresses: usize,
    /// The age of the last answer; `None` if there was none yet.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_millis"))]
    pub age: Option<Duration>,
    /// Why the last lookup failed; `None` if it did not.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub failing: Option<String>,
}

#[cfg(feature = "serde")]
fn as_millis<S: serde::Serializer>(
    age: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let millis = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    serde::Serialize::serialize(&millis, serializer)
}

impl fmt::Display for LookupStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.age {
            Some(age) => write!(f, "answer of {} s ago", age.as_secs())?,
            None => f.write_str("no answer")?,
        }
        match &self.failing {
            Some(why) => write!(f, ", lookup failing: {why}"),
            None => Ok(()),
        }
    }
}

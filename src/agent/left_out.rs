//! An address that is left out for a while.

use std::fmt;
use std::time::Duration;

use crate::agent::EjectionReason;

/// An address that gets no new connections at present; see [`AddressStatus::left_out`](crate::status::AddressStatus::left_out).
///
/// It prints as `left out for 0.8 s, time 1: connect failed` or `ejected for 12.5 s, time 2: 5 failures in a row`. In JSON,
/// `remaining` is in milliseconds, `reason` is a text, and `isEjected` tells the two apart.
///
/// ```
/// use tower_keep_alive::AgentHandle;
///
/// fn print_ejected(agent: &AgentHandle) {
///     for (address, it) in agent.status().addresses.into_values().flatten() {
///         if let Some(left_out) = it.left_out.filter(|it| it.is_ejected()) {
///             println!("{address} is {left_out}");
///         }
///     }
/// }
/// # print_ejected(&tower_keep_alive::KeepAlive::builder().build().handle());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftOut {
    /// How long from now; zero if a connection is trying the address, or the next one will.
    pub remaining: Duration,
    /// How many times in a row.
    pub times: u32,
    /// Why.
    pub reason: LeftOutReason,
}

/// Why an address is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeftOutReason {
    /// The last connect to it has failed or was given up. Its connections serve, and no new ones are made.
    Connect,
    /// It is ejected ([`KeepAliveLayer::eject`](crate::KeepAliveLayer::eject)), and gets no requests either.
    Ejected(EjectionReason),
}

impl LeftOut {
    /// Whether it is [ejected](crate::Ejection), so that it gets no requests either. Without ejection, an address is left out
    /// only while connects to it fail.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        matches!(self.reason, LeftOutReason::Ejected(_))
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (remaining, times) = (self.remaining.as_secs_f64(), self.times);
        let how = if self.is_ejected() {
            "ejected"
        } else {
            "left out"
        };
        let reason = self.reason;
        write!(f, "{how} for {remaining:.1} s, time {times}: {reason}")
    }
}

impl fmt::Display for LeftOutReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("connect failed"),
            Self::Ejected(reason) => reason.fmt(f),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for LeftOut {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let mut fields = serializer.serialize_struct("LeftOut", 4)?;
        let millis = u64::try_from(self.remaining.as_millis()).unwrap_or(u64::MAX);
        fields.serialize_field("remaining", &millis)?;
        fields.serialize_field("times", &self.times)?;
        fields.serialize_field("reason", &self.reason)?;
        fields.serialize_field("isEjected", &self.is_ejected())?;
        fields.end()
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for LeftOutReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

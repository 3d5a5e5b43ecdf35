//! One connection: what it must be, how long it is kept, and what its parts share.

pub(crate) mod activity;
pub(crate) mod close_reason;
pub(crate) mod expectation;
pub(crate) mod info;
pub(crate) mod lifespan;
pub(crate) mod outcome_observer;
pub(crate) mod poolable;
pub(crate) mod shared;
pub(crate) mod taken;
pub(crate) mod timings;
#[cfg(feature = "tls")]
pub(crate) mod tls_info;

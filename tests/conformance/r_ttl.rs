//! R. TTL.

//! T. Counters and status.

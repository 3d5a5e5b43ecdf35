//! N. Lifecycle and observability.

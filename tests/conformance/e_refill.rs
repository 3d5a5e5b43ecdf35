//! E. Removal and refill.

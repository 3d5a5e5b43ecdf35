//! B. Pool key.

//! D. Release rules.

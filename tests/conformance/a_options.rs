//! A. Options, defaults, validation.

//! S. Known defects.

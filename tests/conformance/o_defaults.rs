//! O. Options of agentkeepalive.

//! U. Remaining tests of agentkeepalive.

//! F. Idle sockets.

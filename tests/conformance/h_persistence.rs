//! H. Persistence protocol.

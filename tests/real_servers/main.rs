//! The agent against servers as Debian has them. Each that is not installed is left out by a line that says so, unless
//! `REAL_SERVERS` names its program: then it has to be there. `tests/real_servers/run.sh` installs what it can, says
//! what it cannot, and runs these tests; its first argument is how many requests each server of [`mixed`] gets.

#![cfg(unix)]

mod http2;
mod mixed;
mod nginx;
mod openssl;
mod running;
mod servers;
#[path = "../support/mod.rs"]
mod support;

//! What the fixtures have on a test's own runtime, so that what an agent leaks can be told from it, while other tests
//! run in the same process.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{LazyLock, Mutex},
};
use tokio::runtime::{Handle, Id};

use super::tally::lock;

/// Runtimes are never counted twice: their ids are not used again.
static HOMES: LazyLock<Mutex<HashMap<Id, Home>>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Home {
    tasks: usize,
    transports: usize,
    listeners: Vec<SocketAddr>,
}

/// Something of a fixture's, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Tag {
    home: Option<Id>,
    what: What,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// A server's task.
    Task,
    /// The client's end of a connection in memory.
    Transport,
    /// Where a server listens. Its port may be another test's when it is gone.
    Listener(SocketAddr),
}

impl Tag {
    pub(super) fn new(what: What) -> Self {
        let home = Handle::try_current().ok().map(|runtime| runtime.id());
        if let Some(id) = home {
            let mut homes = lock(&HOMES);
            let home = homes.entry(id).or_default();
            match what {
                What::Task => home.tasks += 1,
                What::Transport => home.transports += 1,
                What::Listener(addr) => home.listeners.push(addr),
            }
        }
        Self { home, what }
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        let mut homes = lock(&HOMES);
        let Some(home) = self.home.and_then(|id| homes.get_mut(&id)) else {
            return;
        };
        match self.what {
            What::Task => home.tasks -= 1,
            What::Transport => home.transports -= 1,
            What::Listener(addr) => home.listeners.retain(|it| *it != addr),
        }
    }
}

/// The tasks of this runtime's servers.
pub fn server_tasks() -> usize {
    here(|home| home.tasks)
}

/// The client's ends of connections to this runtime's servers: in memory, and the sockets that the kernel knows of
/// which a descriptor is open. Where there is no procfs, those in memory alone.
pub fn client_transports() -> usize {
    let (transports, listeners) = here(|home| (home.transports, home.listeners.clone()));
    transports + sockets_to(&listeners)
}

fn here<R>(look: impl FnOnce(&mut Home) -> R) -> R {
    look(lock(&HOMES).entry(Handle::current().id()).or_default())
}

#[cfg(target_os = "linux")]
fn sockets_to(listeners: &[SocketAddr]) -> usize {
    let ports = |v6: bool| {
        let of_family = listeners.iter().filter(move |addr| addr.is_ipv6() == v6);
        of_family.map(|addr| format!(":{:04X}", addr.port()))
    };
    let count = |table: &str, ports: Vec<String>| {
        if ports.is_empty() {
            return 0;
        }
        let table = std::fs::read_to_string(table).expect("procfs");
        let to_a_port = |line: &&str| {
            let mut fields = line.split_whitespace().skip(2);
            let remote = fields.next().unwrap_or_default();
            // A socket without an owner, such as one in TIME_WAIT, has no inode.
            let inode = fields.nth(6).unwrap_or("0");
            inode != "0" && ports.iter().any(|port| remote.ends_with(port.as_str()))
        };
        table.lines().skip(1).filter(to_a_port).count()
    };
    count("/proc/self/net/tcp", ports(false).collect())
        + count("/proc/self/net/tcp6", ports(true).collect())
}

#[cfg(not(target_os = "linux"))]
fn sockets_to(_: &[SocketAddr]) -> usize {
    0
}

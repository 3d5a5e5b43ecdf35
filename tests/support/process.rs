//! What a leak would show in.

/// The open file descriptors of the process, and so of all tests that run in it at this moment.
#[cfg(target_os = "linux")]
pub fn fd_count() -> usize {
    let listing = std::fs::read_dir("/proc/self/fd").expect("procfs");
    // One of them is the listing's own.
    listing.count() - 1
}

/// The tasks of this runtime that have not ended.
pub fn alive_tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

//! What the process holds. Linux only; elsewhere nothing is known.

/// Open descriptors, but for the one that counts them.
pub(crate) fn descriptors() -> Option<usize> {
    let listing = std::fs::read_dir("/proc/self/fd").ok()?;
    Some(listing.count() - 1)
}

/// Resident memory, in KiB.
pub(crate) fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

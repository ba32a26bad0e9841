//! How much memory there is.

use sysinfo::System;

/// Bytes that this program can still take, where the system says so: what is free or can be freed, or what
/// the limit of the container (cgroup, version 1 or 2) leaves if that is less.
pub fn available() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory();
    let free = Some(system.available_memory()).filter(|bytes| *bytes > 0)?;
    // What the container's processes hold; caches of files, which it counts too, are given back.
    let left = system.cgroup_limits().map(|limits| limits.total_memory.saturating_sub(limits.rss));
    Some(left.map_or(free, |left| left.min(free)))
}

/// Bytes of memory of this machine, or of its container.
pub fn total() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    let limit = system.cgroup_limits().map(|limits| limits.total_memory);
    limit.map_or(system.total_memory(), |limit| limit.min(system.total_memory()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_some_of_what_there_is() {
        let (left, all) = (available().expect("a system that tells"), total());
        assert!(left > 1 << 24 && left <= all, "{left} of {all} bytes");
    }
}

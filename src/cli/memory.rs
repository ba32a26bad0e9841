//! How much memory there is.

use std::fs;

/// Bytes that this program can still take, where the system says so (Linux): what is free or can be freed, or the
/// limit of the container if that is less.
pub fn available() -> Option<u64> {
    let free = in_meminfo(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let limit =
        fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    Some(limit.map_or(free, |limit: u64| limit.min(free)))
}

fn in_meminfo(text: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_bytes() {
        let text = "MemTotal:       16384 kB\nMemFree:          512 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(in_meminfo(text), Some(2048 * 1024));
        assert_eq!(in_meminfo("MemTotal: 16384 kB\n"), None);
        assert_eq!(in_meminfo(""), None);
    }
}

//! How much memory this machine has left.

use std::fs;

/// Bytes that can be had without swapping, as the kernel estimates it; nothing where it does not say.
pub(crate) fn available() -> Option<u64> {
    parsed(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn parsed(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read() {
        let meminfo = "MemTotal:       24683520 kB\nMemAvailable:   23622320 kB\nBuffers: 1 kB\n";
        assert_eq!(parsed(meminfo), Some(23_622_320 << 10));
        assert_eq!(parsed("MemTotal: 1 kB\n"), None);
    }
}

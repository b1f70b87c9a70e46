//! How much memory this process has, where Linux tells it.

/// The most that it ever had, in MiB.
pub(crate) fn peak_rss_mb() -> Option<u64> {
    Some(kib("VmHWM:")? / 1024)
}

/// The most that it ever had, in bytes.
pub(crate) fn peak_rss() -> Option<u64> {
    Some(kib("VmHWM:")? * 1024)
}

/// What it has, in bytes.
pub(crate) fn rss() -> Option<u64> {
    Some(kib("VmRSS:")? * 1024)
}

fn kib(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_size() {
        assert!(peak_rss_mb().is_none_or(|mb| mb > 1 && mb < 1 << 20));
        if let (Some(now), Some(peak)) = (rss(), peak_rss()) {
            assert!(now > 1 << 20 && now <= peak_rss().unwrap_or(peak));
        }
        assert_eq!(peak_rss().is_some(), cfg!(target_os = "linux"));
    }
}

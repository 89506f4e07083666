//! What the process takes of the system.

use std::fs;

/// Microseconds in a tick of `/proc/self/stat`: Linux reports hundredths of a
/// second to programs whatever the kernel's own clock.
const TICK_MICROS: u64 = 10_000;

/// Processor time spent in the process and in the kernel for it, in microseconds;
/// `None` where there is no `/proc`.
pub fn cpu_micros() -> Option<(u64, u64)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold blanks;
    // user and system time are the 12th and 13th after it.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut micros = || Some(fields.next()?.parse::<u64>().ok()? * TICK_MICROS);
    Some((micros()?, micros()?))
}

/// Memory of the process that is in RAM, in bytes.
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Descriptors that the process has open.
pub fn open_descriptors() -> Option<usize> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_knows_its_own_size() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(cpu_micros().is_some());
        assert!(open_descriptors().is_some_and(|count| count > 2));
    }
}

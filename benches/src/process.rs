//! What a server's process costs, as the kernel counts it: all threads, living and ended.

use std::{fs, io, time::Duration};

/// Linux reports processor time in hundredths of a second to programs, whatever its timer does.
const TICKS_PER_SECOND: u64 = 100;

#[derive(Clone, Copy)]
pub struct Pid(pub u32);

impl Pid {
    pub fn own() -> Self {
        Self(std::process::id())
    }

    pub fn cpu(self) -> io::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // The command name may contain spaces; user and system time are fields 14 and 15.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut fields = after_name.split_whitespace().skip(11);
        let user: u64 = fields.next().and_then(|ticks| ticks.parse().ok()).unwrap_or(0);
        let system: u64 = fields.next().and_then(|ticks| ticks.parse().ok()).unwrap_or(0);
        Ok(Duration::from_millis((user + system) * 1000 / TICKS_PER_SECOND))
    }

    /// Highest resident memory since the start or since [`Pid::forget_peak`].
    pub fn peak_mib(self) -> io::Result<u64> {
        Ok(self.status_kib("VmHWM:")? / 1024)
    }

    /// Resident memory now.
    pub fn resident_mib(self) -> io::Result<u64> {
        Ok(self.resident_kib()? / 1024)
    }

    /// The same, for what there is much of.
    pub fn resident_kib(self) -> io::Result<u64> {
        self.status_kib("VmRSS:")
    }

    fn status_kib(self, field: &str) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("");
        Ok(line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0))
    }

    /// Makes the present resident memory the peak.
    pub fn forget_peak(self) -> io::Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.0), "5")
    }

    /// This process or the nearest descendant of that name: RabbitMQ's script starts the
    /// process that serves.
    pub fn descendant(self, name: &str) -> Option<Self> {
        if fs::read_to_string(format!("/proc/{}/comm", self.0)).ok()?.trim() == name {
            return Some(self);
        }
        let tasks = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.0)).ok()?;
        let mut children = tasks.split_whitespace().filter_map(|pid| pid.parse().ok());
        children.find_map(|pid| Self(pid).descendant(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_memory_and_has_a_name() {
        let own = Pid::own();
        assert!(own.peak_mib().unwrap() > 0);
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(own.descendant(name.trim()).unwrap().0, own.0);
    }
}

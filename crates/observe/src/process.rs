//! What the process takes of its machine, under the names that Prometheus' own clients use. Read from `/proc`; what cannot be read there is
//! left out.

use std::fs;
use std::str::FromStr;

use crate::exposition::Family;

/// Ticks a second, as the kernel tells times to programs: a constant of Linux on every machine that it is built for here.
const TICKS: f64 = 100.0;

/// What the process takes now.
#[must_use]
pub fn families() -> Vec<Family> {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let boot = fs::read_to_string("/proc/stat").ok().and_then(|stat| field(&stat, "btime"));
    // It counts the descriptor that it is read by.
    #[allow(clippy::cast_precision_loss, reason = "fewer descriptors than a float can count")]
    let open = fs::read_dir("/proc/self/fd").ok().map(|all| all.count().saturating_sub(1) as f64);
    read(&stat, &status, &limits, boot, open)
}

fn read(stat: &str, status: &str, limits: &str, boot: Option<f64>, open: Option<f64>) -> Vec<Family> {
    // The program's name, in parentheses, may hold anything.
    let after_name: Vec<&str> = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let number = |at: usize| after_name.get(at).and_then(|text| f64::from_str(text).ok());
    let kilobytes = |name: &str| field(status, name).map(|kilobytes| kilobytes * 1024.0);
    let cpu = number(11).zip(number(12)).map(|(user, system)| (user + system) / TICKS);
    let start = number(19).zip(boot).map(|(ticks, boot)| boot + ticks / TICKS);
    let most =
        limits.lines().find_map(|line| line.strip_prefix("Max open files")).and_then(|line| line.split_whitespace().next()?.parse().ok());
    let cpu = cpu.map(|seconds| Family {
        kind: crate::exposition::Kind::Counter,
        ..Family::gauge("process_cpu_seconds_total", "CPU time that the process has taken, of user and system, in seconds", seconds)
    });
    let gauge = |name, help, value: Option<f64>| value.map(|value| Family::gauge(name, help, value));
    [
        cpu,
        gauge("process_resident_memory_bytes", "Memory that the process has in use, in bytes", kilobytes("VmRSS:")),
        gauge("process_virtual_memory_bytes", "Memory that is mapped for the process, in bytes", kilobytes("VmSize:")),
        gauge("process_threads", "Threads of the process", field(status, "Threads:")),
        gauge("process_open_fds", "File descriptors that are open", open),
        gauge("process_max_fds", "File descriptors that may be open", most),
        gauge("process_start_time_seconds", "When the process began, in seconds since 1970", start),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The first number after a name that begins a line.
fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::Value;

    #[test]
    fn figures_are_read_whatever_the_program_is_called() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 1200 10000 300 18446744073709551615";
        let status = "Name:\ta\nVmSize:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t4\n";
        let limits = "Limit                     Soft Limit           Hard Limit           Units\nMax open files            1024                 4096                 files\n";
        let families = read(stat, status, limits, Some(1_700_000_000.0), Some(9.0));
        let of = |name: &str| families.iter().find(|family| family.name == name).map(|family| &family.samples[0].value);
        for (name, expected) in [
            ("process_cpu_seconds_total", 3.0),
            ("process_resident_memory_bytes", 1_048_576.0),
            ("process_virtual_memory_bytes", 2_097_152.0),
            ("process_threads", 4.0),
            ("process_open_fds", 9.0),
            ("process_max_fds", 1024.0),
            ("process_start_time_seconds", 1_700_000_012.0),
        ] {
            assert!(matches!(of(name), Some(Value::Gauge(value)) if (value - expected).abs() < 1e-9), "{name}: {:?}", of(name));
        }
        assert!(read("", "", "", None, None).is_empty());
    }

    #[test]
    fn this_process_takes_something() {
        assert_eq!(families().len(), 7);
    }
}

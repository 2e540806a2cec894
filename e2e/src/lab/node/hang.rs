//! Whether a guest that does not come up hangs in the emulated processor.
//!
//! Now and then, on a busy machine, a guest with a VF stops for good while its kernel sizes the VF's BARs. Its one vCPU spins in
//! `native_queued_spin_lock_slowpath` with interrupts off, on a lock that no other CPU can hold, and leaves the guest for
//! nothing but the node's own interrupts. Neither hawser nor cloud-hypervisor is asked for anything then. A scenario that meets it
//! says nothing of hawser: it is skipped, with what was seen.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

pub(crate) const TRACING: &str = "/sys/kernel/tracing";
pub(crate) const SAMPLE: Duration = Duration::from_secs(2);
/// Exits of one vCPU in a sample: the node's timer alone makes hundreds.
const MIN_EXITS: usize = 40;
/// Bytes of code that a loop may be long.
const MAX_SPAN: u64 = 64 << 10;

/// What a hung vCPU does, if there is one.
pub(super) fn look() -> Option<String> {
    if !Path::new(TRACING).join("events/kvm").exists() {
        let mounted = Command::new("mount")
            .args(["-t", "tracefs", "none", TRACING])
            .status();
        mounted.ok().filter(std::process::ExitStatus::success)?;
    }
    let switch = |to: &str| fs::write(Path::new(TRACING).join("events/kvm/kvm_exit/enable"), to);
    fs::write(Path::new(TRACING).join("trace"), "").ok()?;
    switch("1").ok()?;
    thread::sleep(SAMPLE);
    switch("0").ok()?;
    judge(&fs::read_to_string(Path::new(TRACING).join("trace")).ok()?)
}

pub(crate) fn judge(trace: &str) -> Option<String> {
    let mut vcpus: BTreeMap<&str, Vec<(&str, u64)>> = BTreeMap::new();
    for line in trace.lines().filter(|line| line.contains("kvm_exit:")) {
        let after = |word: &str| line.split_once(word)?.1.split_whitespace().next();
        let thread = line.split_whitespace().next()?;
        let rip = after(" rip ")?.trim_start_matches("0x");
        let rip = u64::from_str_radix(rip, 16).ok()?;
        vcpus.entry(thread).or_default().push((after(" reason ")?, rip));
    }
    vcpus.into_iter().find_map(|(thread, exits)| {
        let lowest = exits.iter().map(|(_, rip)| *rip).min()?;
        let highest = exits.iter().map(|(_, rip)| *rip).max()?;
        let outside = exits.iter().all(|(reason, _)| *reason == "interrupt");
        let hangs = outside && exits.len() >= MIN_EXITS && highest - lowest < MAX_SPAN;
        hangs.then(|| {
            format!(
                "the guest hangs in the emulated processor: {thread} left it {} times in {} s, for the node's interrupts only, between \
                 {lowest:#x} and {highest:#x}",
                exits.len(),
                SAMPLE.as_secs()
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exits(reason: &str, count: u64, step: u64) -> String {
        let line = |n: u64| {
            format!(
                "           vcpu0-532     [000] .....    99.{n:06}: kvm_exit: vcpu 0 reason {reason} rip 0x{:x} info1 0x0 info2 0x0 intr_info 0x0\n",
                0xffff_ffff_8109_9068 + n * step
            )
        };
        (0..count).map(line).collect()
    }

    #[test]
    fn only_a_loop_that_nothing_but_the_node_interrupts_is_a_hang() {
        let hung = judge(&exits("interrupt", 200, 2)).unwrap();
        assert!(hung.contains("vcpu0-532 left it 200 times"), "{hung}");
        assert_eq!(judge(&exits("interrupt", 10, 2)), None, "too few to tell");
        assert_eq!(judge(&exits("interrupt", 200, 1 << 20)), None, "it gets on");
        let works = exits("interrupt", 200, 2) + &exits("ioio", 1, 0);
        assert_eq!(judge(&works), None, "it does something");
        assert_eq!(judge("# tracer: nop\n"), None);
    }
}

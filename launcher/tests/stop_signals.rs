//! A stop signal counts from the first instruction of `hawser run`, also where hawser is the first process of a container.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// It waits for its manifest on standard input, which does not come.
#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn the_first_process_of_a_pid_namespace_ends_while_it_waits_for_its_manifest() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut unshare = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", env!("CARGO_BIN_EXE_hawser")])
            .args(["run", "--vmi", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let end = Instant::now() + Duration::from_secs(20);
        let hawser = loop {
            let child = fs::read_to_string(&children).unwrap();
            let pid = child.trim().parse().ok().map(Pid::from_raw);
            // Past its program's start: it reads from the pipe.
            let reads = pid.is_some_and(|pid| {
                fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|at| at.contains("pipe"))
            });
            if let Some(pid) = pid.filter(|_| reads) {
                break pid;
            }
            assert!(Instant::now() < end, "hawser does not read its standard input");
            sleep(Duration::from_millis(10));
        };
        kill(hawser, signal).unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        let status = loop {
            if let Some(status) = unshare.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > end {
                let _ = kill(hawser, Signal::SIGKILL);
                panic!("{signal} is lost");
            }
            sleep(Duration::from_millis(10));
        };
        let mut stderr = String::new();
        unshare
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        assert_eq!(status.code(), Some(0), "{signal}: {stderr}");
        assert!(stderr.contains("stopped before the guest ran"), "{stderr}");
    }
}

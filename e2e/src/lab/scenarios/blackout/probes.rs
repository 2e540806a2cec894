//! How long a guest is not heard of.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Milliseconds between two probes.
pub(super) const PROBE: f64 = 10.0;

/// `ping` from the node, every ten milliseconds.
pub(super) struct Probes {
    child: Child,
    times: JoinHandle<Vec<f64>>,
}

impl Probes {
    pub(super) fn start(address: &str) -> Result<Self> {
        let address: IpAddr = address.parse()?;
        let interval = format!("{}", PROBE / 1000.0);
        let mut child = Command::new("ping")
            .args(["-n", "-D", "-i", &interval, &address.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start ping")?;
        let answers = child.stdout.take().context("ping has no output")?;
        let times = thread::spawn(move || {
            BufReader::new(answers)
                .lines()
                .map_while(Result::ok)
                .filter_map(|line| time_of(&line))
                .collect()
        });
        // The guest answers before anything is measured.
        thread::sleep(Duration::from_millis(500));
        Ok(Self { child, times })
    }

    /// The longest time without an answer, less the interval, in milliseconds.
    pub(super) fn blackout(mut self) -> Result<f64> {
        // It is heard of again.
        thread::sleep(Duration::from_millis(500));
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGINT)?;
        self.child.wait()?;
        let times = self
            .times
            .join()
            .map_err(|_| anyhow::anyhow!("the reader of ping's answers panicked"))?;
        ensure!(times.len() > 20, "{} answers", times.len());
        longest(&times).context("no answers")
    }
}

fn longest(times: &[f64]) -> Option<f64> {
    let gaps = times
        .iter()
        .zip(times.iter().skip(1))
        .map(|(earlier, later)| (later - earlier) * 1000.0 - PROBE);
    gaps.max_by(f64::total_cmp)
}

/// Seconds, in `[1234.567] 64 bytes from …`.
fn time_of(line: &str) -> Option<f64> {
    let (time, rest) = line.strip_prefix('[')?.split_once("] ")?;
    rest.contains("bytes from").then(|| time.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_time_without_an_answer() {
        let lines = [
            "PING 10.96.0.11 (10.96.0.11) 56(84) bytes of data.",
            "[100.00] 64 bytes from 10.96.0.11: icmp_seq=1 ttl=64 time=0.5 ms",
            "[100.01] 64 bytes from 10.96.0.11: icmp_seq=2 ttl=64 time=0.5 ms",
            "[100.02] From 10.96.0.1 icmp_seq=3 Destination Host Unreachable",
            "[100.25] 64 bytes from 10.96.0.11: icmp_seq=9 ttl=64 time=0.5 ms",
        ];
        let times: Vec<f64> = lines.iter().filter_map(|line| time_of(line)).collect();
        assert_eq!(times.len(), 3);
        assert!((longest(&times).unwrap() - 230.0).abs() < 0.01);
        assert_eq!(longest(&[]), None);
    }
}

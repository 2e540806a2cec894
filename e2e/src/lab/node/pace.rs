//! What this node can do, measured once when it is up; and what the scenarios therefore allow for.
//!
//! Machines differ by a factor of four, and one that is busy with something else by more. The time limits in the scenarios are
//! those of [`REFERENCE`]; whatever waits here asks [`allowed`] what a limit comes to. A guest's downtime in a migration follows the
//! same measurement: a round of the transfer takes as long as the node needs for it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Bytes that the measurement passes through the kernel: a small migration. What computes is the kernel and libc alone, so that it does
/// not matter how this program was built.
const SAMPLE: usize = 64 << 20;
const CHUNK: usize = 64 << 10;
/// What the sample takes on the machine that the limits are written for, which moves a guest's 192 MiB in 19 s. One that took 1.83 s
/// moved them in 75 s.
const REFERENCE: Duration = Duration::from_millis(500);
/// Beyond this a scenario that never ends is not told from one that is slow.
const SLOWEST: f64 = 6.0;
/// How long a guest may stand still at the end of a migration, on the machine of [`REFERENCE`]: four times the 0.3 s that hawser allows
/// by default, which the last round comes to now and then when everything is emulated.
const DOWNTIME: Duration = Duration::from_millis(1200);

static PACE: OnceLock<Pace> = OnceLock::new();

/// How much slower than the reference; never faster, which no limit would gain from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pace {
    factor: f64,
}

impl Pace {
    fn of(sample: Duration) -> Self {
        let factor = sample.as_secs_f64() / REFERENCE.as_secs_f64();
        Self {
            factor: factor.clamp(1.0, SLOWEST),
        }
    }

    pub(crate) fn factor(self) -> f64 {
        self.factor
    }

    fn allowed(self, limit: Duration) -> Duration {
        limit.mul_f64(self.factor)
    }
}

/// Measures, for all of this process.
pub(crate) fn measure() -> Result<(Pace, Duration)> {
    let sample = sample()?;
    Ok((*PACE.get_or_init(|| Pace::of(sample)), sample))
}

fn pace() -> Pace {
    PACE.get().copied().unwrap_or(Pace { factor: 1.0 })
}

/// What a limit of the reference comes to here.
pub(crate) fn allowed(limit: Duration) -> Duration {
    pace().allowed(limit)
}

/// When something that begins now has to be through.
pub(crate) fn deadline(limit: Duration) -> Instant {
    Instant::now() + allowed(limit)
}

/// `--downtime` of a migration.
pub(crate) fn downtime() -> Duration {
    allowed(DOWNTIME)
}

/// Copies as a migration does: one end sends over TCP, the other receives and keeps it.
fn sample() -> Result<Duration> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let started = Instant::now();
    let sender = thread::spawn(move || -> Result<()> {
        let mut stream = TcpStream::connect(address)?;
        let chunk = vec![0x5a; CHUNK];
        for _ in 0..SAMPLE / CHUNK {
            stream.write_all(&chunk)?;
        }
        Ok(())
    });
    let (mut stream, _) = listener.accept()?;
    let mut received = Vec::with_capacity(SAMPLE);
    stream.read_to_end(&mut received)?;
    let took = started.elapsed();
    sender.join().ok().context("the sender panicked")??;
    ensure!(
        received.len() == SAMPLE,
        "{} of {SAMPLE} bytes came",
        received.len()
    );
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_grow_with_the_sample_and_never_shrink() {
        let limit = Duration::from_secs(10);
        assert_eq!(Pace::of(REFERENCE / 5).allowed(limit), limit);
        assert_eq!(Pace::of(REFERENCE * 3).allowed(limit), limit * 3);
        assert_eq!(Pace::of(REFERENCE * 50).allowed(limit), limit.mul_f64(SLOWEST));
    }

    #[test]
    fn a_sample_is_all_that_was_sent() {
        assert!(sample().unwrap() > Duration::ZERO);
    }
}

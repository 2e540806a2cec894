//! Finding the script, and dying by it.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use std::{env, fs, process, thread};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::script::{Death, Point, Script};

impl Script {
    /// # Errors
    /// A script that cannot be read or says something unknown. None at all is the default one.
    pub(crate) fn beside_executable() -> Result<Self> {
        if let Ok(text) = env::var("STANDIN_FAULTS") {
            return serde_json::from_str(&text).context("STANDIN_FAULTS");
        }
        let path = env::current_exe()?.with_file_name("standin.json");
        match fs::read_link(&path) {
            Ok(text) => {
                let text = text.to_str().context("the script is not UTF-8")?;
                serde_json::from_str(text).with_context(|| path.display().to_string())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Notes the time at which `what` happened, for benchmarks.
    pub(crate) fn stamp(&self, what: &str) {
        let Some(path) = &self.stamps else { return };
        let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
            return;
        };
        let line = format!("{what} {}\n", Duration::from(now).as_nanos());
        // A benchmark that gets no stamp says so itself.
        let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(line.as_bytes(), path));
    }

    /// Ends the process here where the script says so: at once, or in the background after the delay.
    pub(crate) fn die_at(&self, point: Point) {
        let Some(death) = self.die.clone().filter(|death| death.at == point) else {
            return;
        };
        if death.after_ms == 0 {
            death.now();
        }
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(death.after_ms));
            death.now()
        });
    }
}

impl Death {
    fn now(&self) -> ! {
        if let Some(signal) = self.signal.and_then(|number| Signal::try_from(number).ok()) {
            // Where it is blocked or handled the exit code below tells it apart.
            let _ = kill(Pid::this(), signal);
            thread::sleep(Duration::from_secs(1));
        }
        process::exit(self.exit.unwrap_or(1))
    }
}

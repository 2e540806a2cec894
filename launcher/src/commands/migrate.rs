//! `hawser migrate`: has the launcher of this pod migrate its guest, and follows that to its end.

use std::time::Duration;

use clap::Args;

use super::args::{SecurityArgs, StateDirArgs};
use crate::control::{self, OnTimeout, Order};
use crate::error::{ExitCode, Failure};
use crate::migration::Address;
use crate::state_dir::vmm_dir;

#[derive(Debug, Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    pub state: StateDirArgs,
    /// Address of the target, where `hawser run --incoming` waits.
    #[arg(long, value_name = "tcp:HOST:PORT", required_unless_present = "cancel", value_parser = address)]
    pub to: Option<String>,
    #[command(flatten)]
    pub security: SecurityArgs,
    /// Name to verify in the target's certificate (default: HOST).
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// Maximum downtime. Memory is copied in rounds until what remains can be sent within this time.
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = duration)]
    pub downtime: Duration,
    /// Time for the rounds over the guest's memory to reach that point (whole seconds).
    #[arg(long, value_name = "TIME", default_value = "3600s", value_parser = duration)]
    pub timeout: Duration,
    /// What to do if they do not reach it.
    #[arg(long, value_name = "WHAT", default_value = "cancel")]
    pub on_timeout: OnTimeout,
    /// The longest that the guest may be paused altogether. After that hawser resumes it here, and the migration has failed.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    pub max_downtime: Duration,
    /// TCP connections for the guest's memory.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=128))]
    pub connections: u32,
    /// Cancel the migration that is under way. A guest that was committed to the target stays there.
    #[arg(long, conflicts_with = "to")]
    pub cancel: bool,
}

pub(super) fn migrate(args: MigrateArgs) -> Result<ExitCode, Failure> {
    let order = match args.to {
        None => None,
        Some(to) => Some(Order {
            tls_dir: args.security.tls_directory()?,
            to,
            server_name: args.server_name,
            downtime_ms: u64::try_from(args.downtime.as_millis()).unwrap_or(u64::MAX),
            timeout_s: args.timeout.as_secs().max(1),
            connections: args.connections,
            on_timeout: args.on_timeout,
            max_downtime_ms: u64::try_from(args.max_downtime.as_millis()).unwrap_or(u64::MAX),
        }),
    };
    control::migrate(&vmm_dir(&args.state.state_dir), order)
}

/// The launcher parses it again; here it is a matter of usage.
fn address(text: &str) -> Result<String, String> {
    text.parse::<Address>().map(|_| text.to_owned())
}

/// As humantime writes them: `300ms`, `90s`, `5m`, `1h 30m`.
fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("expected more than nothing: 300ms, 60s, 5m".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!(
            "{error}: expected a number with its unit: 300ms, 60s, 5m"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        for bad in ["300", "0s", "-1s", "s", ""] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in ["tcp:pod-b:49152", "tcp:[fd00::1]:49152", "tcp:10.0.0.1:1"] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in ["pod-b:49152", "tcp:pod-b", "tcp::1", "tcp:pod-b:x", ""] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}

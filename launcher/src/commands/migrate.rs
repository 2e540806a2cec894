//! `hawser migrate`: has the launcher of this pod migrate its guest, and follows that to its end.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::args::{SecurityArgs, StateDirArgs};
use crate::control::{self, OnTimeout, Order};
use crate::error::{ExitCode, Failure};
use crate::load;
use crate::migration::Address;
use crate::spec::parse_quantity;
use crate::spec::policy::MigrationPolicy;
use crate::state_dir::vmm_dir;

/// A year.
const NO_LIMIT: Duration = Duration::from_secs(31_536_000);

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
    /// Time for the rounds over the guest's memory to reach that point, in whole seconds (default: --timeout-per-gib for each GB).
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// The same for each GB (10^9 bytes, the last one begun) of the guest's memory, and of the disks that are copied.
    #[arg(long, value_name = "TIME", default_value = "150s", value_parser = duration)]
    pub timeout_per_gib: Duration,
    /// Time without a round that is smaller than those before it, in whole seconds.
    #[arg(long, value_name = "TIME", default_value = "150s", value_parser = duration)]
    pub progress_timeout: Duration,
    /// What to do when one of these times is over.
    #[arg(long, value_name = "WHAT", default_value = "cancel")]
    pub on_timeout: OnTimeout,
    /// If the rounds do not shrink, allow more downtime step by step, as long as the guest is paused no longer than this altogether.
    /// After that hawser resumes it here, and the migration has failed (without this option: no steps, and 20 s).
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub max_downtime: Option<Duration>,
    /// If the rounds do not shrink, slow the guest down step by step: its vCPUs stand still for 20% of the time, up to 99%.
    #[arg(long)]
    pub auto_converge: bool,
    /// Most bytes of the guest's memory a second while it runs, as a quantity: 64Mi (default: no limit).
    #[arg(long, value_name = "QUANTITY", value_parser = parse_quantity)]
    pub bandwidth: Option<u64>,
    /// MigrationPolicy of KubeVirt (YAML or JSON) that says the same for these options. --bandwidth and --max-downtime
    /// take precedence over it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["timeout_per_gib", "on_timeout", "auto_converge", "cancel"])]
    pub policy: Option<PathBuf>,
    /// TCP connections for the guest's memory.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=128))]
    pub connections: u32,
    /// Cancel the migration that is under way. A guest that was committed to the target stays there.
    #[arg(long, conflicts_with = "to")]
    pub cancel: bool,
}

impl MigrateArgs {
    /// What the policy says, where no option does.
    fn follow(&mut self, policy: MigrationPolicy) {
        self.auto_converge = policy.auto_converge.unwrap_or(self.auto_converge);
        self.bandwidth = self.bandwidth.or(policy.bandwidth);
        if let Some(seconds) = policy.completion_timeout_per_gib {
            // KubeVirt's 0 is without a limit.
            self.timeout_per_gib = match seconds {
                0 => NO_LIMIT,
                seconds => Duration::from_secs(seconds).min(NO_LIMIT),
            };
        }
        let max_downtime = policy.max_downtime_ms.map(Duration::from_millis);
        self.max_downtime = self.max_downtime.or(max_downtime);
        if policy.workload_disruption == Some(true) {
            self.on_timeout = OnTimeout::Pause;
        }
    }
}

pub(super) fn migrate(mut args: MigrateArgs) -> Result<ExitCode, Failure> {
    if let Some(path) = &args.policy {
        let policy = load::policy(path)?;
        args.follow(policy);
    }
    let order = match args.to {
        None => None,
        Some(to) => Some(Order {
            tls_dir: args.security.tls_directory()?,
            to,
            server_name: args.server_name,
            downtime_ms: milliseconds(args.downtime),
            timeout_s: args.timeout.map(seconds),
            timeout_per_gib_s: seconds(args.timeout_per_gib),
            progress_timeout_s: seconds(args.progress_timeout),
            connections: args.connections,
            bandwidth: args.bandwidth,
            on_timeout: args.on_timeout,
            max_downtime_ms: args.max_downtime.map(milliseconds),
            auto_converge: args.auto_converge,
        }),
    };
    control::migrate(&vmm_dir(&args.state.state_dir), order)
}

fn seconds(time: Duration) -> u64 {
    time.as_secs().max(1)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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

//! `cargo e2e`: everything that shows the launcher at work, from unit tests to real guests.

mod bench;
mod cargo_tests;
mod certificates;
mod cluster;
mod cni;
mod cni_tap;
mod entry;
mod fuzz;
mod guests;
mod lab;
mod layouts;
mod netns;
mod packages;
mod packets;
mod pods;
mod process;
mod programs;
mod report;
mod scenarios;
mod schema;
#[path = "standin/record.rs"]
mod standin_record;
#[path = "standin/script.rs"]
mod standin_script;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use lab::LauncherBinary;
use report::{Outcome, Report};

#[derive(Debug, Parser)]
#[command(name = "cargo e2e", about = "Hawser end to end: tests, demo and lab")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every test, and count: unit tests, then scenarios in namespaces, then real guests in the lab, then a Kubernetes
    Test {
        /// Only one of the four
        #[arg(long)]
        only: Option<Group>,
        /// Only what has this in its name
        filter: Option<String>,
        /// Skip the scenarios of the lab and the cluster that have not begun so many seconds from now
        #[arg(long, value_name = "SECONDS")]
        within: Option<u64>,
        #[command(flatten)]
        launcher: LauncherArguments,
    },
    /// Boot a real guest in a pod and reach it, step by step, to watch
    Demo {
        #[command(flatten)]
        launcher: LauncherArguments,
    },
    /// Run the lab's scenarios, or those with any of these words in their names; the longer set too, which `test` leaves
    /// out. `lab shell` is a shell in the lab's node
    Lab {
        scenarios: Vec<String>,
        #[command(flatten)]
        launcher: LauncherArguments,
    },
    /// Run a real Kubernetes on the lab's nodes, and the scenarios of the cluster, or those with any of these words in
    /// their names. `cluster shell` is a shell with kubectl; `cluster images DIRECTORY` writes the images of the scenarios
    /// there
    Cluster {
        scenarios: Vec<String>,
        /// The longer set too
        #[arg(long)]
        all: bool,
        /// No more nodes than this: what needs more is skipped. By default two where they are needed and there is memory
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=2))]
        nodes: Option<u8>,
        /// The cluster of this file instead of one of its own (docs/cluster-tests.md)
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
        /// An image as the nodes of that cluster know it: launcher, guest or client, and its reference
        #[arg(long = "image", value_name = "WHICH=REFERENCE", requires = "kubeconfig", value_parser = image)]
        images: Vec<(String, String)>,
        #[command(flatten)]
        launcher: LauncherArguments,
    },
    /// hawser beside the same by hand: medians of paired rounds
    Bench {
        /// Throughput and rates to real guests in the lab, by binding, instead of the start and the memory
        #[arg(long)]
        datapath: bool,
        /// How long a migrating guest is not heard of, in the lab, beside a migration without hawser
        #[arg(long, conflicts_with = "datapath")]
        migration: bool,
        /// These bindings alone
        #[arg(long, value_name = "BINDING", value_delimiter = ',', requires = "datapath")]
        only: Vec<String>,
        /// Over IPv6, for the bindings that have to do with addresses
        #[arg(long, requires = "datapath")]
        ipv6: bool,
        /// 15 by default, 20 for the datapath, 5 for migrations
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        rounds: Option<u16>,
        #[command(flatten)]
        launcher: LauncherArguments,
    },
    /// Run the fuzz targets, or those with this word in their names; needs nightly Rust and cargo-fuzz
    Fuzz {
        target: Option<String>,
        /// For each target
        #[arg(long, default_value_t = 60)]
        minutes: u64,
    },
    /// Start and stop guests, and keep others busy, and see that nothing grows: memory, descriptors, files, connections
    Soak {
        /// How often a guest is started and stopped
        #[arg(long, default_value_t = 300)]
        cycles: u32,
        /// How long leases are renewed, passt is restarted and guests migrate
        #[arg(long, default_value_t = 60)]
        minutes: u64,
        #[command(flatten)]
        launcher: LauncherArguments,
    },
    /// Install packages and fill the cache; the other commands do so too when they need it
    Setup,
    /// What the lab's node runs
    #[command(hide = true)]
    NodeAgent,
    /// What stands in for CNI's `tap` plugin
    #[command(hide = true)]
    CniTap,
}

#[derive(Debug, Args)]
struct LauncherArguments {
    /// Put this binary to the test instead of building one
    #[arg(long, value_name = "PATH", env = "HAWSER_BINARY")]
    hawser: Option<PathBuf>,
}

impl LauncherArguments {
    fn binary(self) -> LauncherBinary {
        self.hawser.map_or(LauncherBinary::Build, LauncherBinary::Given)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    Unit,
    Namespace,
    Lab,
    Cluster,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Test {
            only,
            filter,
            within,
            launcher,
        } => {
            let until = within.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
            Ok(test(only, filter.as_deref(), until, &launcher.binary()))
        }
        Command::Demo { launcher } => demo(&launcher.binary()),
        Command::Lab { scenarios, launcher } if scenarios == ["shell"] => {
            lab::shell(&launcher.binary()).map(|()| ExitCode::SUCCESS)
        }
        Command::Lab { scenarios, launcher } => {
            let mut report = Report::default();
            lab::run(&mut report, lab::Set::All, &scenarios, &launcher.binary(), None);
            Ok(report.finish())
        }
        Command::Cluster {
            scenarios,
            nodes,
            kubeconfig: None,
            launcher,
            ..
        } if scenarios == ["shell"] => {
            cluster::shell(&launcher.binary(), nodes.map(usize::from)).map(|()| ExitCode::SUCCESS)
        }
        Command::Cluster {
            scenarios, launcher, ..
        } if scenarios.first().is_some_and(|first| first == "images") => match scenarios.as_slice() {
            [_, directory] => {
                cluster::images(&launcher.binary(), Path::new(directory)).map(|()| ExitCode::SUCCESS)
            }
            _ => bail!("cluster images: expected one directory to write the images to"),
        },
        Command::Cluster {
            scenarios,
            all,
            nodes,
            kubeconfig,
            images,
            launcher,
        } => {
            let mut report = Report::default();
            let set = if all {
                cluster::Set::All
            } else {
                cluster::Set::Usual
            };
            let order = cluster::Order {
                set,
                filters: &scenarios,
                nodes: nodes.map(usize::from),
            };
            match kubeconfig {
                Some(kubeconfig) => {
                    let elsewhere = cluster::Elsewhere { kubeconfig, images };
                    elsewhere.run(&mut report, &order, &launcher.binary());
                }
                None => cluster::run(&mut report, &order, &launcher.binary(), None),
            }
            Ok(report.finish())
        }
        Command::Bench {
            datapath: true,
            only,
            ipv6,
            rounds,
            launcher,
            ..
        } => {
            let order = lab::Order {
                rounds: rounds.unwrap_or(20).into(),
                ipv6,
                bindings: only,
            };
            order.check()?;
            let mut report = Report::default();
            lab::bench(&mut report, &launcher.binary(), &order);
            Ok(report.finish())
        }
        Command::Bench {
            migration: true,
            rounds,
            launcher,
            ..
        } => {
            let mut report = Report::default();
            lab::bench_migration(&mut report, &launcher.binary(), rounds.unwrap_or(5).into());
            Ok(report.finish())
        }
        Command::Bench { rounds, launcher, .. } => {
            bench::run(lab::launcher(&launcher.binary())?, rounds.unwrap_or(15).into())
                .map(|()| ExitCode::SUCCESS)
        }
        Command::Fuzz { target, minutes } => {
            let mut report = Report::default();
            fuzz::run(&mut report, target.as_deref(), Duration::from_secs(60 * minutes));
            Ok(report.finish())
        }
        Command::Soak {
            cycles,
            minutes,
            launcher,
        } => {
            let length = scenarios::Length {
                cycles,
                churn: Duration::from_secs(60 * minutes),
            };
            let mut report = Report::default();
            scenarios::soak(&mut report, lab::launcher(&launcher.binary()), &length);
            Ok(report.finish())
        }
        Command::Setup => lab::setup().map(|()| ExitCode::SUCCESS),
        Command::CniTap => cni_tap::run().map(|()| ExitCode::SUCCESS),
        Command::NodeAgent => lab::node::run().map(|()| ExitCode::SUCCESS),
    }
}

/// A real guest where there can be one. Otherwise the same wiring with what stands in for it, and no doubt about which.
fn demo(binary: &LauncherBinary) -> Result<ExitCode> {
    let mut report = Report::default();
    match lab::why_no_real_guests()? {
        None => lab::demo(&mut report, binary),
        Some(reason) => {
            let rule = "!".repeat(100);
            eprintln!("{rule}\n!! NO REAL GUEST: {reason}");
            eprintln!(
                "!! What follows is the same wiring, with a stand-in for cloud-hypervisor and a namespace as the guest."
            );
            eprintln!("{rule}");
            for shown in ["clients udhcpc", "datapath"] {
                scenarios::run(&mut report, Some(shown), lab::launcher(binary));
            }
            report.record("demo", "real guest", Outcome::Skipped(reason), None);
        }
    }
    Ok(report.finish())
}

/// The cheap ones first: what they find need not wait for the lab.
fn test(
    only: Option<Group>,
    filter: Option<&str>,
    until: Option<Instant>,
    binary: &LauncherBinary,
) -> ExitCode {
    let wanted = |group| only.is_none_or(|only| only == group);
    let filters: Vec<String> = filter.map(str::to_owned).into_iter().collect();
    let mut report = Report::default();
    // Some unit tests ask Debian's own tools whether they read what hawser has written.
    if nix::unistd::geteuid().is_root()
        && let Err(error) = packages::install()
    {
        eprintln!("{error:#}");
    }
    if wanted(Group::Unit) {
        cargo_tests::run(&mut report, filter);
    }
    if wanted(Group::Namespace) {
        scenarios::run(&mut report, filter, lab::launcher(binary));
    }
    if wanted(Group::Lab) {
        lab::run(&mut report, lab::Set::Usual, &filters, binary, until);
    }
    if wanted(Group::Cluster) {
        let order = cluster::Order {
            set: cluster::Set::Main,
            filters: &filters,
            nodes: None,
        };
        cluster::run(&mut report, &order, binary, until);
    }
    report.finish()
}

/// `guest=REFERENCE`; which there are is known where they are used.
fn image(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((which, reference)) if !reference.is_empty() => Ok((which.to_owned(), reference.to_owned())),
        _ => Err("expected WHICH=REFERENCE".to_owned()),
    }
}

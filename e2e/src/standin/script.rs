//! `standin.json`: what the stand-in is to do, and what is to go wrong.
//!
//! It lies beside the executable, because a launcher is right not to pass its environment on to a VMM. A test links
//! the stand-in into a directory of its own and puts the script there: as the text of a symbolic link, because a launcher
//! is right as well to let its VMM open no file but those of its guest (landlock), and links are read without opening
//! anything. `STANDIN_FAULTS` with the same JSON wins over
//! it, for use by hand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// All of it; the default is a VMM and guest without faults, whose frames go nowhere.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Script {
    /// TAP name to the socket of its guest port. A TAP without one is opened, and what it carries is dropped.
    pub(crate) ports: BTreeMap<String, PathBuf>,
    /// Tell the guest port the TAP's MTU, as virtio-net does. Without it the guest keeps 1500 until DHCP says better.
    pub(crate) offer_mtu: bool,
    /// How long the guest takes to shut down after the power button.
    pub(crate) shutdown_ms: u64,
    /// The guest does not react to the power button.
    pub(crate) ignore_power_button: bool,
    /// The guest reboots itself this long after it booted, once.
    pub(crate) reboot_after_ms: Option<u64>,
    pub(crate) api: Api,
    /// Requests (`vm.create`, …) that are never answered.
    pub(crate) hang: Vec<String>,
    /// Requests that are answered with an error, and it.
    pub(crate) fail: BTreeMap<String, Failure>,
    pub(crate) die: Option<Death>,
    /// Fill the event stream with what is not an event, cut events among it.
    pub(crate) event_junk: bool,
    /// Tell this datagram socket when (CLOCK_MONOTONIC, in nanoseconds) the process started and each request came.
    pub(crate) stamps: Option<PathBuf>,
    /// Fail to open the TAP.
    pub(crate) tap_open_fails: bool,
    /// Rounds over the guest's memory before it is paused, and how long each takes.
    pub(crate) migration_rounds: u32,
    pub(crate) migration_round_ms: u64,
    /// At which step of a live migration what goes wrong: a source before it takes the step, a target on it.
    pub(crate) migration_fault: Option<(Step, Fault)>,
    /// What the guest does in the middle of a live migration: after the first round over its memory.
    pub(crate) guest_end: Option<GuestEnd>,
    /// A source whose guest has taken it over: the configuration that it sends has a disk of this path instead of its own.
    pub(crate) sent_disk: Option<PathBuf>,
    /// The guest writes its first disk that it can write, without pause: numbered records.
    pub(crate) writes_disk: bool,
    /// Lines on standard error when the guest boots, as a VMM writes them that its guest surprises.
    pub(crate) log_lines: u32,
    /// What a VMM that its guest has taken over would try when the guest boots. What comes of each is a line on the
    /// guest's console.
    pub(crate) attempts: Vec<Attempt>,
}

/// Something to try, of which nothing stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Attempt {
    /// Open a file or directory to read it.
    Read(PathBuf),
    /// Open a file that is there to write to it.
    Write(PathBuf),
    /// Make a file.
    Create(PathBuf),
    /// Execute a program.
    Execute(PathBuf),
    /// Whether a signal to the launcher would be sent.
    SignalLauncher,
    /// Open the launcher's memory.
    ReadLauncher,
    /// Ask the kernel for its keys.
    Keys,
    /// Connect to a TCP port of the pod's loopback address.
    Connect(u16),
}

/// Ends that a guest may come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GuestEnd {
    PowerOff,
    Reboot,
    /// Its kernel crashed.
    TripleFault,
    /// KVM cannot go on with a vCPU.
    VcpuError,
}

/// Steps of a live migration as the VMMs take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    Start,
    Config,
    Memory,
    State,
    Complete,
    /// The target's guest runs, and the source has been told.
    Completed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    Hang,
    Fail,
    Die,
}

/// When the API socket comes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Api {
    #[default]
    Normal,
    Never,
    LateMs(u64),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Failure {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Sudden ends: by exit code, or by signal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Death {
    pub(crate) at: Point,
    #[serde(default)]
    pub(crate) after_ms: u64,
    #[serde(default)]
    pub(crate) exit: Option<i32>,
    #[serde(default)]
    pub(crate) signal: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Point {
    /// Before the API is up.
    Start,
    /// On `vm.create`, before the answer.
    Create,
    /// On `vm.boot`, before the answer.
    Boot,
    /// After the answer to `vm.boot`.
    Booted,
    /// On `vm.power-button`, after the answer.
    PowerButton,
}

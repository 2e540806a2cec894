//! Pods with less: a read-only /proc/sys, one capability, none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Context;
use super::running::{Running, WAIT, exit_code, expect_exit};
use super::traffic::{TcpServer, reaches};
use crate::entry::Entry;
use crate::guests::Guest;
use crate::pods::{DefaultRoute6, FAR6, POD4, POD6, Pod, PodSpec, Privileges, VMM_UID, set, vmi};
use crate::process::{Process, output, until};
use crate::report::Scenario;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "NET_ADMIN alone and a read-only /proc/sys: IPv4, and a line about IPv6",
        run: read_only,
    },
    Scenario {
        name: "the same with the pod's sysctl: both families",
        run: read_only_preset,
    },
    Scenario {
        name: "IPv6 asked for where it cannot be had is an error",
        run: read_only_explicit,
    },
    Scenario {
        name: "root with a read-only /proc/sys",
        run: read_only_root,
    },
    Scenario {
        name: "root with NET_ADMIN, SETUID and SETGID alone",
        run: few_root,
    },
    Scenario {
        name: "uid 107 with NET_ADMIN, writable /proc/sys",
        run: net_admin,
    },
    Scenario {
        name: "a default route by RA survives forwarding",
        run: advertised_route,
    },
    Scenario {
        name: "set up as root, run with no capability",
        run: setup_then_run,
    },
    Scenario {
        name: "set up by a container that stays, with NET_ADMIN alone; run with no capability",
        run: setup_stays,
    },
    Scenario {
        name: "a container that stays keeps the wiring of a guest that was migrated away",
        run: setup_keeps_what_is_in_use,
    },
    Scenario {
        name: "no capability and nothing set up: exit code 4",
        run: nothing_at_all,
    },
];

const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
const FORWARDING: &str = "net.ipv6.conf.all.forwarding";

fn unprivileged() -> PodSpec {
    PodSpec {
        privileges: Privileges::NetAdmin,
        read_only_proc_sys: true,
        ..PodSpec::default()
    }
}

fn four(running: &Running) -> Result<()> {
    let _server = TcpServer::start(&running.guest.netns, "guest", (ANY4, 80))?;
    running.explain(reaches(&running.pod.node, (POD4, 80), "guest"))?;
    running.explain(reaches(&running.pod.netns, (Ipv4Addr::LOCALHOST, 80), "guest"))?;
    Ok(())
}

fn both(running: &Running) -> Result<()> {
    let _server = TcpServer::start(&running.guest.netns, "guest", (ANY6, 80))?;
    running.explain(reaches(&running.pod.node, (POD4, 80), "guest"))?;
    running.explain(reaches(&running.pod.node, (POD6, 80), "guest"))?;
    output(
        &mut running
            .guest
            .command("ping", &["-c1", "-W2", &FAR6.to_string()])?,
    )?;
    Ok(())
}

fn without6(context: &Context, spec: PodSpec) -> Result<()> {
    let mut running = Running::start(context, spec, &vmi(json!([{"port": 80}])))?;
    running.guest.configure4()?;
    four(&running)?;
    let said = running.hawser.stderr();
    ensure!(said.contains(FORWARDING), "no line names {FORWARDING}:\n{said}");
    ensure!(
        running.guest.default6()?.is_empty(),
        "the guest was given an IPv6 default route"
    );
    running.stop_cleanly()
}

fn read_only(context: &Context) -> Result<()> {
    without6(context, unprivileged())
}

fn read_only_root(context: &Context) -> Result<()> {
    without6(
        context,
        PodSpec {
            read_only_proc_sys: true,
            ..PodSpec::default()
        },
    )
}

fn read_only_preset(context: &Context) -> Result<()> {
    let spec = PodSpec {
        sysctls: vec![(FORWARDING, "1")],
        ..unprivileged()
    };
    let mut running = Running::start(context, spec, &vmi(json!([{"port": 80}])))?;
    running.explain(running.guest.configure())?;
    both(&running)?;
    running.stop_cleanly()
}

fn read_only_explicit(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, unprivileged())?;
    let before = pod.netns.snapshot()?;
    let mut vmi = vmi(Value::Null);
    set(
        &mut vmi,
        "/spec/networks/0/pod",
        json!({"vmIPv6NetworkCIDR": "fd42:9::/64"}),
    );
    let mut hawser = pod.hawser("run", &vmi)?;
    expect_exit(exit_code(&mut hawser)?, 4, &hawser)?;
    ensure!(
        hawser.stderr().contains(FORWARDING),
        "no word of {FORWARDING}:\n{}",
        hawser.transcript()
    );
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(changes.is_empty(), "left behind: {changes:#?}");
    Ok(())
}

/// The kernel lets the namespace's administrator write its sysctls, whoever that is.
fn net_admin(context: &Context) -> Result<()> {
    let spec = PodSpec {
        privileges: Privileges::NetAdmin,
        ..PodSpec::default()
    };
    let mut running = Running::start(context, spec, &vmi(json!([{"port": 80}])))?;
    running.explain(running.guest.configure())?;
    both(&running)?;
    running.stop_cleanly()
}

fn few_root(context: &Context) -> Result<()> {
    let spec = PodSpec {
        privileges: Privileges::FewRoot,
        ..PodSpec::default()
    };
    let mut running = Running::start(context, spec, &vmi(json!([{"port": 80}])))?;
    running.explain(running.guest.configure())?;
    both(&running)?;
    running.stop_cleanly()
}

fn advertised_route(context: &Context) -> Result<()> {
    let spec = PodSpec {
        default_route6: DefaultRoute6::Advertised,
        ..PodSpec::default()
    };
    let mut running = Running::start(context, spec, &vmi(json!([{"port": 80}])))?;
    running.explain(running.guest.configure())?;
    let routes = || running.pod.netns.ip("-6 route show default");
    ensure!(
        routes()?.contains("proto ra"),
        "the pod's default route is gone: {}",
        routes()?
    );
    // And it is still refreshed: taken away, the next advertisement brings it back.
    running.pod.netns.ip("-6 route del default")?;
    running.pod.advertise()?;
    both(&running)?;
    running.stop_cleanly()
}

fn setup_then_run(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let before = pod.netns.snapshot()?;
    let manifest = vmi(json!([{"port": 80}]));
    let mut setup = pod.hawser("setup", &manifest)?;
    expect_exit(exit_code(&mut setup)?, 0, &setup)?;
    ensure!(
        !before.changes(&pod.netns.snapshot()?).is_empty(),
        "nothing was set up"
    );
    // Another container of the pod: same namespace and state directory, other privileges.
    output(
        std::process::Command::new("chown")
            .args(["-R", &format!("{VMM_UID}:{VMM_UID}")])
            .arg(pod.path("state")),
    )?;
    let mut entry = pod.entry();
    (entry.uid, entry.capabilities) = (Some(VMM_UID), Some(Vec::new()));
    let mut guest = Guest::new(&pod)?;
    let hawser = pod.hawser_as(&entry, "run", &manifest, &[])?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    running.explain(running.guest.configure())?;
    both(&running)?;
    running.stop_cleanly()
}

/// As `hawser pod` has it where there is no user namespace: two containers with a state directory each.
struct Split {
    setup: Process,
    entry: Entry,
    wiring: String,
    pod: Pod,
}

impl Split {
    fn start(context: &Context, manifest: &Value) -> Result<Self> {
        let pod = Pod::new(
            &context.programs,
            PodSpec {
                privileges: Privileges::Nothing,
                ..PodSpec::default()
            },
        )?;
        let wiring = pod.path("wiring");
        std::fs::create_dir(&wiring)?;
        let mut entry = pod.entry();
        (entry.uid, entry.roots_group) = (None, Some(VMM_UID));
        entry.capabilities = Some(vec!["NET_ADMIN".to_owned()]);
        let (wiring, guest) = (
            wiring.display().to_string(),
            pod.path("state").display().to_string(),
        );
        let args = ["--state-dir", &wiring, "--stay", "--guest-state-dir", &guest];
        let setup = pod.hawser_as(&entry, "setup", manifest, &args)?;
        Ok(Self {
            setup,
            entry,
            wiring,
            pod,
        })
    }

    /// The startup probe.
    fn is_wired(&self) -> Result<bool> {
        let args = ["--state-dir", &self.wiring, "--wired"];
        let status = self
            .pod
            .hawser_command(&self.entry, "status", &args)?
            .output()?
            .status;
        match status.code() {
            Some(0) => Ok(true),
            Some(4) => Ok(false),
            _ => anyhow::bail!("hawser status --wired: {status}"),
        }
    }

    fn wait_until_wired(&self) -> Result<()> {
        until("the startup probe", WAIT, || Ok(self.is_wired()?.then_some(())))
            .with_context(|| self.setup.transcript())
    }

    fn stop(&mut self) -> Result<()> {
        self.setup.signal(Signal::SIGTERM)?;
        expect_exit(exit_code(&mut self.setup)?, 0, &self.setup)
    }
}

fn setup_stays(context: &Context) -> Result<()> {
    let manifest = vmi(json!([{"port": 80}]));
    let mut split = Split::start(context, &manifest)?;
    split.wait_until_wired()?;
    let mut guest = Guest::new(&split.pod)?;
    let probe = |flag: &str| -> Result<Option<i32>> {
        let state = split.pod.path("state").display().to_string();
        let args = ["--state-dir", &state, flag];
        let command = &mut split.pod.hawser_command(&split.pod.entry(), "status", &args)?;
        Ok(command.output()?.status.code())
    };
    ensure!(probe("--live")? == Some(4), "alive before it was started");
    let mut hawser = split.pod.hawser("run", &manifest)?;
    guest.booted_by(&hawser)?;
    until("the readiness probe", WAIT, || {
        Ok((probe("--ready")? == Some(0)).then_some(()))
    })?;
    ensure!(probe("--live")? == Some(0), "not alive while its guest runs");
    guest.configure()?;
    {
        let _server = TcpServer::start(&guest.netns, "guest", (ANY6, 80))?;
        reaches(&split.pod.node, (POD4, 80), "guest")?;
    }
    hawser.signal(Signal::SIGTERM)?;
    expect_exit(exit_code(&mut hawser)?, 0, &hawser)?;
    ensure!(probe("--ready")? != Some(0), "ready after its end");
    // The guest's container starts again beside the same wiring.
    ensure!(has_tap(&split.pod)?, "the wiring is gone with the guest");
    drop(guest);
    std::fs::remove_file(split.pod.port())?;
    let mut guest = Guest::new(&split.pod)?;
    let mut hawser = split.pod.hawser("run", &manifest)?;
    guest.booted_by(&hawser)?;
    hawser.signal(Signal::SIGTERM)?;
    expect_exit(exit_code(&mut hawser)?, 0, &hawser)?;
    split.stop()?;
    ensure!(!split.is_wired()?, "still said to be wired");
    ensure!(!has_tap(&split.pod)?, "the wiring is left");
    Ok(())
}

fn has_tap(pod: &Pod) -> Result<bool> {
    Ok(pod.netns.ip("-o link show")?.contains("tap0"))
}

fn setup_keeps_what_is_in_use(context: &Context) -> Result<()> {
    let mut split = Split::start(context, &vmi(Value::Null))?;
    split.wait_until_wired()?;
    let vmm = split.pod.path("state/vmm");
    std::fs::create_dir(&vmm)?;
    std::fs::write(vmm.join("given-away.json"), r#"{"to": "tcp:192.0.2.1:49152"}"#)?;
    split.stop()?;
    ensure!(
        split.setup.has_said("event=\"wiring-kept\"", 1),
        "no word about the wiring:\n{}",
        split.setup.transcript()
    );
    ensure!(has_tap(&split.pod)?, "the wiring was taken down");
    Ok(())
}

fn nothing_at_all(context: &Context) -> Result<()> {
    let spec = PodSpec {
        privileges: Privileges::Nothing,
        ..PodSpec::default()
    };
    let pod = Pod::new(&context.programs, spec)?;
    let mut hawser = pod.hawser("run", &vmi(Value::Null))?;
    expect_exit(exit_code(&mut hawser)?, 4, &hawser)?;
    ensure!(
        hawser.stderr().contains("NET_ADMIN"),
        "NET_ADMIN is not named:\n{}",
        hawser.transcript()
    );
    Ok(())
}

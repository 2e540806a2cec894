//! Two launchers with the stand-in VMM, one guest: the hand-off, and what is refused before it.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Context;
use super::migration_pair::{
    FILES, PATIENCE, Pair, SOON, TO, certify, expect_runs, expect_state, explain, migrate, quick, run, status,
};
use super::running::{expect_exit, processes};
use crate::certificates::Authority;
use crate::pods::{NODE4, POD4, Pod, PodSpec, set, vmi};
use crate::process::until;
use crate::report::Scenario;
use crate::standin_script::Script;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "a guest moves, with TLS",
        run: moves,
    },
    Scenario {
        name: "a target that does not fit refuses with every reason and waits on",
        run: refused,
    },
    Scenario {
        name: "a bridged NIC goes along off the pod network, and not on it",
        run: bridged,
    },
    Scenario {
        name: "a read-only disk that is the same on both sides is no obstacle",
        run: disks,
    },
    Scenario {
        name: "a source that sends another configuration has the target's VMM open nothing that is not the guest's",
        run: foreign_configuration,
    },
    Scenario {
        name: "a wrong certificate, and plain TCP without a word for it",
        run: strangers,
    },
];

/// The launchers compare what they were told; the VMMs have a channel of their own, which neither launcher reads.
fn foreign_configuration(context: &Context) -> Result<()> {
    const OTHER: &str = "other-claim.img";
    let path = Path::new(FILES).join(OTHER);
    let sends = Script {
        sent_disk: Some(path.clone()),
        ..quick()
    };
    let guest = vmi(Value::Null);
    let prepare = |_: &Pod, to: &Pod| Ok(std::fs::write(to.path(OTHER), "another guest's")?);
    let mut pair = Pair::prepared(context, (&sends, &guest), (&quick(), &guest), &[], prepare)?;
    let moving = pair.migrate()?;
    let stays = pair.stays(moving);
    explain(&pair, "the guest does not stay", stays)?;
    let refused = format!("{}: Permission denied", path.display());
    let seen = until("the target's VMM is refused the file", SOON, || {
        Ok(pair.target.transcript().contains(&refused).then_some(()))
    });
    explain(&pair, "nothing is said of the file", seen)?;
    let said = pair.target.transcript();
    ensure!(!said.contains("opened the disk"), "it was opened:\n{said}");
    Ok(())
}

fn moves(context: &Context) -> Result<()> {
    let mut pair = Pair::new(context, &quick(), &quick())?;
    expect_state(&status(&pair.to)?, "receiving")?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    explain(&pair, "hawser migrate", expect_exit(code, 0, &moving))?;
    for step in [
        "preparing",
        "sending",
        "round 1",
        "fencing",
        "committed",
        "migrated",
    ] {
        ensure!(
            moving.stdout().contains(step),
            "no {step}:\n{}",
            moving.transcript()
        );
    }
    let said = moving.stdout();
    let asked = said.lines().filter(|line| line.starts_with("preparing:")).count();
    ensure!(asked == 1, "a step is reported once:\n{said}");
    let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &pair.source)?;
    ensure!(
        pair.source
            .stderr()
            .contains(&format!(r#"event="guest-migrated" address={TO}"#)),
        "{}",
        pair.transcript()
    );
    // The kernel shows the launcher whose connection the VMM's is.
    ensure!(
        !pair
            .source
            .stderr()
            .contains(r#"event="relay-connection-unverified""#),
        "{}",
        pair.transcript()
    );
    let last = status(&pair.from)?;
    expect_state(&last, "migrated")?;
    ensure!(last.get("handedOverTo") == Some(&json!(TO)), "{last}");
    ensure!(processes(&pair.from)?.is_empty(), "left at the source");
    silent(&pair.from).context("after the migration")?;
    expect_runs(&pair.target)?;
    let received = status(&pair.to)?;
    expect_state(&received, "running")?;
    ensure!(
        received.pointer("/migration/step") == Some(&json!("migrated")),
        "at the target: {received}"
    );
    for pod in [&pair.from, &pair.to] {
        let left = std::fs::read_dir(pod.path("state/vmm/migration-tls"))?.count();
        ensure!(left == 0, "{left} certificates of the migration are left");
    }

    // The container is started again: the guest is not.
    let mut again = run(&pair.from, &vmi(Value::Null), &[])?;
    let code = again.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 5, &again)?;
    ensure!(again.stderr().contains(TO), "{}", again.transcript());
    silent(&pair.from).context("after a start in vain")?;

    pair.target.signal(Signal::SIGTERM)?;
    let code = pair.target.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &pair.target)
}

/// The pod that the guest has left does not answer in its name: a refusal would end connections that go on elsewhere.
fn silent(pod: &Pod) -> Result<()> {
    let address = SocketAddr::new(POD4.into(), 8080);
    let connected = pod
        .node
        .run(|| Ok(TcpStream::connect_timeout(&address, Duration::from_millis(500))))?;
    match connected {
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(()),
        other => bail!("the pod answers without a guest: {other:?}"),
    }
}

fn refused(context: &Context) -> Result<()> {
    let mut other = vmi(Value::Null);
    set(&mut other, "/metadata/name", json!("another"));
    set(&mut other, "/spec/domain/memory/guest", json!("256Mi"));
    set(
        &mut other,
        "/spec/domain/devices/interfaces/0/macAddress",
        json!("02:11:aa:33:44:56"),
    );
    let mut pair = Pair::with(context, (&quick(), &vmi(Value::Null)), (&quick(), &other))?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 9, &moving)?;
    for reason in [
        "ns/guest",
        "ns/another",
        "config.memory.size",
        "02:11:aa:33:44:56",
    ] {
        ensure!(
            moving.stderr().contains(reason),
            "no {reason}:\n{}",
            moving.transcript()
        );
    }
    expect_runs(&pair.source)?;
    expect_state(&status(&pair.to)?, "receiving")?;
    // Nobody comes, and it is told to end: that is no failure.
    pair.target.signal(Signal::SIGTERM)?;
    pair.target_has_gone(0)
}

fn bridged(context: &Context) -> Result<()> {
    let mut two = vmi(Value::Null);
    set(
        &mut two,
        "/spec/domain/devices/interfaces",
        json!([
            {"name": "default", "masquerade": {}, "macAddress": "02:11:aa:33:44:55"},
            {"name": "red", "bridge": {}, "macAddress": "02:11:aa:33:44:66"},
        ]),
    );
    set(
        &mut two,
        "/spec/networks",
        json!([{"name": "default", "pod": {}}, {"name": "red", "multus": {"networkName": "red"}}]),
    );
    let mut pair = Pair::with(context, (&quick(), &two), (&quick(), &two))?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    explain(&pair, "two NICs", expect_exit(code, 0, &moving))?;
    let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &pair.source)?;
    expect_runs(&pair.target)?;

    let mut one = vmi(Value::Null);
    set(
        &mut one,
        "/spec/domain/devices/interfaces",
        json!([{"name": "default", "bridge": {}}]),
    );
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    pod.script(&quick())?;
    let source = run(&pod, &one, &[])?;
    source.wait_for(r#"event="guest-running""#, 1, SOON)?;
    let mut moving = migrate(&pod, &["--insecure-plain-tcp"])?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 9, &moving)?;
    ensure!(
        moving
            .stderr()
            .contains("interface default (bridge): the guest has this pod's address"),
        "{}",
        moving.transcript()
    );
    expect_runs(&source)?;
    pod_bridge_by_annotation(context)
}

/// The user has said that it is seen to, so that the target's pod has another address is no reason against it.
fn pod_bridge_by_annotation(context: &Context) -> Result<()> {
    let mut guest = vmi(Value::Null);
    set(
        &mut guest,
        "/spec/domain/devices/interfaces",
        json!([{"name": "default", "bridge": {}, "macAddress": "02:11:aa:33:44:77"}]),
    );
    set(
        &mut guest,
        "/metadata/annotations",
        json!({"kubevirt.io/allow-pod-bridge-network-live-migration": ""}),
    );
    let mut pair = Pair::prepared(context, (&quick(), &guest), (&quick(), &guest), &[], |_, to| {
        to.netns.ip(&format!("address del {POD4}/24 dev eth0"))?;
        to.netns.ip("address add 10.244.0.99/24 dev eth0")?;
        to.netns.ip(&format!("route add default via {NODE4}")).map(drop)
    })?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    explain(&pair, "another address", expect_exit(code, 0, &moving))?;
    let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &pair.source)?;
    pair.target
        .wait_for(r#"event="addresses-announced""#, 1, SOON)
        .map(drop)
}

fn only_file(directory: &Path) -> Result<std::path::PathBuf> {
    let mut files = std::fs::read_dir(directory)?;
    let first = files.next().context("no file")??.path();
    ensure!(
        files.next().is_none(),
        "more than one file in {}",
        directory.display()
    );
    Ok(first)
}

fn disks(context: &Context) -> Result<()> {
    let with = |user_data: &str| {
        let mut guest = vmi(Value::Null);
        set(
            &mut guest,
            "/spec/domain/devices/disks",
            json!([{"name": "seed", "disk": {"bus": "virtio"}}]),
        );
        set(
            &mut guest,
            "/spec/volumes",
            json!([{"name": "seed", "cloudInitNoCloud": {"userData": user_data}}]),
        );
        guest
    };
    let (one, other) = (with("#cloud-config"), with("#cloud-boothook"));
    let pair = Pair::with(context, (&quick(), &one), (&quick(), &other))?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    explain(&pair, "another seed", expect_exit(code, 9, &moving))?;
    ensure!(
        moving.stderr().contains("disk seed: its content is not the same"),
        "{}",
        moving.transcript()
    );
    expect_runs(&pair.source)?;
    let mut pair = Pair::with(context, (&quick(), &one), (&quick(), &one))?;
    // The target compares what its VMM would get now, not what was there when it began to wait.
    let seed = only_file(&pair.to.path("state/vmm/disks"))?;
    let made = std::fs::read(&seed)?;
    let mut changed = made.clone();
    if let Some(last) = changed.last_mut() {
        *last ^= 1;
    }
    std::fs::write(&seed, changed)?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    explain(&pair, "a seed that was changed", expect_exit(code, 9, &moving))?;
    std::fs::write(&seed, made)?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    explain(&pair, "the same seed", expect_exit(code, 0, &moving))?;
    let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &pair.source)?;
    expect_runs(&pair.target)?;

    // Without a word for it the guest writes into an overlay, which is at the source alone.
    let mut scratch = vmi(Value::Null);
    set(
        &mut scratch,
        "/spec/volumes",
        json!([{"name": "scratch", "containerDisk": {"image": "example/scratch"}}]),
    );
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    pod.script(&quick())?;
    std::fs::create_dir_all(pod.path("scratch/disk"))?;
    std::fs::write(pod.path("scratch/disk/disk.raw"), [0; 4096])?;
    let source = run(&pod, &scratch, &["--image", "scratch=/srv/scratch"])?;
    source.wait_for(r#"event="guest-running""#, 1, SOON)?;
    let mut moving = migrate(&pod, &["--insecure-plain-tcp"])?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 9, &moving)?;
    ensure!(
        moving
            .stderr()
            .contains("disk scratch: what the guest writes is in an overlay"),
        "{}",
        moving.transcript()
    );
    Ok(())
}

fn strangers(context: &Context) -> Result<()> {
    let pair = Pair::new(context, &quick(), &quick())?;
    let mut plain = migrate(&pair.from, &[])?;
    let code = plain.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 2, &plain)?;
    ensure!(
        plain.stderr().contains("--insecure-plain-tcp"),
        "{}",
        plain.transcript()
    );
    let mut unwanted = migrate(&pair.from, &["--insecure-plain-tcp"])?;
    let code = unwanted.wait_exit(PATIENCE)?.code().unwrap_or(-1);
    expect_exit(code, 9, &unwanted)?;
    // Read anew for each connection: so is a wrong one.
    certify(&Authority::new("stranger")?, &pair.from, "10.99.0.1")?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 9, &moving)?;
    expect_runs(&pair.source)?;
    expect_state(&status(&pair.to)?, "receiving")?;
    // One that trusts the target, and is not trusted by it.
    std::fs::copy(
        pair.to.path("certificates/ca-cert.pem"),
        pair.from.path("certificates/ca-cert.pem"),
    )?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 9, &moving)?;
    ensure!(
        pair.target
            .stderr()
            .contains(r#"event="migration-connection-rejected""#),
        "{}",
        pair.transcript()
    );
    // And a target that is not the one it was sent to.
    let authority = Authority::new("renewed")?;
    certify(&authority, &pair.from, "10.99.0.1")?;
    certify(&authority, &pair.to, "10.99.0.7")?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 9, &moving)?;
    // Renewed on both sides, it works.
    certify(&authority, &pair.to, "10.99.0.2")?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    explain(&pair, "renewed", expect_exit(code, 0, &moving))
}

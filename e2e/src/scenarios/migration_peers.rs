//! Who comes to the port of a target, and what a launcher does with those who are not its source.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::Context;
use super::migration_pair::{
    PATIENCE, Pair, SOON, TLS, by, expect_runs, expect_state, explain, hawser, migrate, quick, run, run_args,
    status,
};
use super::running::{expect_exit, processes, status_field};
use crate::certificates::Authority;
use crate::pods::{Pod, VMM_UID, set, vmi};
use crate::process::{Process, until};
use crate::report::Scenario;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "a migration's source is known by the name in its certificate",
        run: names,
    },
    Scenario {
        name: "a migration's port over plain TCP tells a stranger nothing",
        run: plain_stranger,
    },
    Scenario {
        name: "a crowd of strangers does not shut a migration's port, nor fill the log",
        run: crowd,
    },
    Scenario {
        name: "a migration between pods that reach each other by IPv6 alone",
        run: by_ipv6,
    },
    Scenario {
        name: "a migration over many connections at once",
        run: many_connections,
    },
    Scenario {
        name: "a migration's port survives a launcher without descriptors",
        run: no_descriptors,
    },
];

const TARGET: ([u8; 4], u16) = ([10, 99, 0, 2], 49152);
const TO_V6: &str = "tcp:[fd99::2]:49152";
const PLAIN: [&str; 1] = ["--insecure-plain-tcp"];

/// In the network of the source's pod, to the target's port.
fn dial(from: &Pod) -> Result<TcpStream> {
    from.netns.run(|| {
        let stream = TcpStream::connect_timeout(&SocketAddr::from(TARGET), SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(stream)
    })
}

fn certify(authority: &Authority, pod: &Pod, name: &str, address: &str) -> Result<()> {
    authority.issue(&pod.path("certificates"), name, &[address.parse()?])
}

/// A pair over plain TCP: the target that [`Pair`] has started ends, and another one waits.
fn plain(context: &Context, theirs: &Value) -> Result<Pair> {
    let mut pair = Pair::new(context, &quick(), &quick())?;
    pair.target.signal(Signal::SIGTERM)?;
    pair.target.wait_exit(SOON)?;
    pair.target = target(&pair, theirs, &PLAIN)?;
    Ok(pair)
}

fn target(pair: &Pair, guest: &Value, options: &[&str]) -> Result<Process> {
    let target = run(&pair.to, guest, &[&["--incoming"], options].concat())?;
    target.wait_for(r#"event="waiting-for-guest""#, 1, SOON)?;
    Ok(target)
}

fn names(context: &Context) -> Result<()> {
    let mut pair = Pair::new(context, &quick(), &quick())?;
    // The target's guest is another one in more than one field.
    pair.target.signal(Signal::SIGTERM)?;
    pair.target.wait_exit(SOON)?;
    let mut other = vmi(Value::Null);
    set(&mut other, "/spec/domain/memory/guest", json!("256Mi"));
    pair.target = target(&pair, &other, &["--tls-dir", "/srv/certificates"])?;
    let authority = Authority::new("cluster")?;
    certify(&authority, &pair.to, "guest.ns.vmi", "10.99.0.2")?;
    for name in [
        "mallory.other.vmi",
        "guest.other.vmi",
        "*.other.vmi",
        "guest.ns.vmi.example",
    ] {
        certify(&authority, &pair.from, name, "10.99.0.1")?;
        let mut moving = pair.migrate()?;
        let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
        explain(&pair, name, expect_exit(code, 9, &moving))?;
        let said = moving.stderr();
        ensure!(
            said.contains("does not accept the name in this launcher's certificate"),
            "{name}: not said why: {said}"
        );
        for detail in ["config", "256", "268435456", "guest.ns.vmi;", "02:11:aa"] {
            ensure!(!said.contains(detail), "{name} is told {detail}: {said}");
        }
    }
    ensure!(
        pair.target.stderr().contains("not for guest.ns.vmi"),
        "{}",
        pair.target.transcript()
    );
    expect_state(&status(&pair.to)?, "receiving")?;
    expect_runs(&pair.source)?;

    // One that is known is told everything.
    for name in ["guest.ns.vmi", "*.ns.vmi"] {
        certify(&authority, &pair.from, name, "10.99.0.1")?;
        let mut moving = pair.migrate()?;
        let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
        expect_exit(code, 9, &moving)?;
        ensure!(
            moving.stderr().contains("config.memory.size"),
            "{name}: {}",
            moving.transcript()
        );
    }

    // Whoever the operator names, here by its address.
    pair.target.signal(Signal::SIGTERM)?;
    pair.target.wait_exit(SOON)?;
    let guest = vmi(Value::Null);
    let options = ["--tls-dir", "/srv/certificates", "--peer-name", "10.99.0.1"];
    pair.target = target(&pair, &guest, &options)?;
    certify(&authority, &pair.from, "launchers.example", "10.99.0.1")?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    explain(&pair, "named", expect_exit(code, 0, &moving))
}

/// The target listens as it does by default, with a socket of both families even where the pod says that IPv6 sockets are not.
fn by_ipv6(context: &Context) -> Result<()> {
    let prepare = |from: &Pod, to: &Pod| {
        for (pod, address) in [(from, "fd99::1"), (to, "fd99::2")] {
            pod.netns.ip("-4 address flush dev mig0")?;
            pod.netns
                .ip(&format!("address add {address}/64 dev mig0 nodad"))?;
        }
        to.netns
            .run(|| Ok(std::fs::write("/proc/sys/net/ipv6/bindv6only", "1")?))
    };
    let guest = vmi(Value::Null);
    let mut pair = Pair::prepared(context, (&quick(), &guest), (&quick(), &guest), &[], prepare)?;
    let name = ["--server-name", "guest.ns.vmi"];
    let to = ["migrate", "--state-dir", "/srv/state", "--to", TO_V6];
    let mut moving = hawser(&pair.from, &[&to[..], &TLS, &name].concat())?;
    let code = moving.wait_exit(PATIENCE)?.code().unwrap_or(-1);
    explain(&pair, "hawser migrate", expect_exit(code, 0, &moving))?;
    let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
    explain(&pair, "the source", expect_exit(code, 0, &pair.source))?;
    expect_runs(&pair.target)
}

/// A message as the launchers send them.
fn say(stream: &mut TcpStream, message: &Value) -> Result<()> {
    let body = serde_json::to_vec(message)?;
    stream.write_all(&u32::try_from(body.len())?.to_be_bytes())?;
    Ok(stream.write_all(&body)?)
}

fn hear(stream: &mut TcpStream) -> Result<Value> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; usize::try_from(u32::from_be_bytes(length))?];
    stream.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

fn plain_stranger(context: &Context) -> Result<()> {
    let pair = plain(context, &vmi(Value::Null))?;
    let mut stream = dial(&pair.from)?;
    stream.write_all(b"HAWSER CONTROL\n")?;
    let forged = "no\n2026-01-01T00:00:00Z ERROR forged\u{1b}[2J";
    let prepare = json!({
        "say": "prepare", "version": 1, "id": "0", "credentials": null,
        "description": {
            "identity": {"namespace": "ns", "name": "guest", "uid": null},
            "vmm_version": "v53.0", "nics": [], "disks": [], "config": {}, "obstacles": [forged],
        },
    });
    say(&mut stream, &prepare)?;
    let answer = loop {
        let message = hear(&mut stream).context("the target's answer")?;
        if message != json!({"say": "alive"}) {
            break message.to_string();
        }
    };
    ensure!(answer.contains("refused"), "{answer}");
    for detail in ["config", "128", "tap0", "02:11:aa", "forged"] {
        ensure!(!answer.contains(detail), "a stranger is told {detail}: {answer}");
    }
    pair.target
        .wait_for("config.memory", 1, SOON)
        .context("the reasons in the target's log")?;
    let log = pair.target.stderr();
    ensure!(log.contains("forged"), "{log}");
    ensure!(
        log.lines().all(|line| !line.starts_with("2026-01-01T00:00:00Z")) && !log.contains('\u{1b}'),
        "a stranger writes the log: {log}"
    );
    Ok(())
}

fn crowd(context: &Context) -> Result<()> {
    let mut pair = Pair::new(context, &quick(), &quick())?;
    for last in 11..15 {
        pair.from
            .netns
            .ip(&format!("address add 10.99.0.{last}/24 dev mig0"))?;
    }
    // First those that the port has places for, and then more; of the source's address and of others.
    let crowd = (0..400).map(|_| dial(&pair.from)).collect::<Result<Vec<_>>>()?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(PATIENCE)?.code().unwrap_or(-1);
    let moved = expect_exit(code, 0, &moving);
    explain(&pair, "with 400 silent connections", moved)?;
    drop(crowd);
    let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &pair.source)?;
    expect_runs(&pair.target)?;

    // Those that come and go.
    let before = pair.target.stderr().lines().count();
    for _ in 0..2000 {
        dial(&pair.from)?.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    }
    std::thread::sleep(Duration::from_secs(2));
    let lines = pair.target.stderr().lines().count().saturating_sub(before);
    ensure!((1..30).contains(&lines), "2000 strangers write {lines} lines");
    ensure!(
        pair.target
            .stderr()
            .contains(r#"event="migration-connections-rejected""#),
        "not counted: {}",
        pair.target.transcript()
    );
    pair.target.signal(Signal::SIGTERM)?;
    let code = pair.target.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &pair.target)
}

fn many_connections(context: &Context) -> Result<()> {
    for connections in ["64", "128"] {
        let mut pair = plain(context, &vmi(Value::Null))?;
        let mut moving = migrate(
            &pair.from,
            &[&PLAIN[..], &["--connections", connections]].concat(),
        )?;
        let code = moving.wait_exit(PATIENCE)?.code().unwrap_or(-1);
        explain(&pair, connections, expect_exit(code, 0, &moving))?;
        let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
        expect_exit(code, 0, &pair.source)?;
        expect_runs(&pair.target)?;
    }
    Ok(())
}

/// Of the launcher's processes the one that listens: the guest's user's.
fn supervisor(pod: &Pod) -> Result<Pid> {
    let user = VMM_UID.to_string();
    let mut hawsers = processes(pod)?
        .into_iter()
        .filter(|(_, name)| name == "hawser")
        .map(|(pid, _)| pid);
    hawsers
        .find(|pid| status_field(*pid, "Uid").is_ok_and(|uids| uids.split_whitespace().next() == Some(&user)))
        .context("no supervisor in the pod")
}

fn files(pid: Pid) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

fn no_descriptors(context: &Context) -> Result<()> {
    let mut pair = Pair::new(context, &quick(), &quick())?;
    pair.target.signal(Signal::SIGTERM)?;
    pair.target.wait_exit(SOON)?;
    // The fewest that hawser starts with.
    let few = 64;
    let limit = format!("--nofile={few}:{few}");
    let hawser = pair.to.path("hawser").display().to_string();
    let args = run_args(&["--incoming", "--tls-dir", "/srv/certificates"]);
    let args = [&[limit.as_str(), &hawser], &args[..]].concat();
    pair.target = by(&pair.to, Path::new("/usr/bin/prlimit"), &args)?;
    pair.target.feed(&vmi(Value::Null).to_string())?;
    pair.target.wait_for(r#"event="waiting-for-guest""#, 1, SOON)?;
    let supervisor = supervisor(&pair.to)?;
    let crowd = (0..100).map(|_| dial(&pair.from)).collect::<Result<Vec<_>>>()?;
    until("the launcher has no descriptors left", SOON, || {
        Ok((files(supervisor)? >= few).then_some(()))
    })?;
    // It fails more than once.
    std::thread::sleep(Duration::from_millis(500));
    drop(crowd);
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    explain(&pair, "with descriptors again", expect_exit(code, 0, &moving))?;
    let said = pair.target.stderr();
    let failures = said.matches(r#"event="accept-failed""#).count();
    ensure!(failures == 1, "said {failures} times: {said}");
    Ok(())
}

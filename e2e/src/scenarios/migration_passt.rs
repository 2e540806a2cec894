//! A guest behind passt moves, with the stand-in VMM and a stand-in for passt, which notes how it was started: what the
//! launchers agree on. What a real passt makes of it the lab shows.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Context;
use super::migration_pair::{FILES, SOON, TLS, TO, certify, migrate, quick, status};
use super::running::expect_exit;
use crate::certificates::Authority;
use crate::pods::{GUEST_MAC, NODE4, POD4, POD6, Pod, PodSpec, Privileges, set, vmi};
use crate::process::{Process, until};
use crate::programs::write_script;
use crate::report::Scenario;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "a guest behind passt takes its addresses along, once",
        run: takes_its_addresses_along,
    },
    Scenario {
        name: "connections behind passt are put aside only for a pod of the same addresses",
        run: asks_its_helper_for_the_same_addresses_only,
    },
];

/// Answers the greeting with no features (version 1, a reply to request 1, eight bytes), and stays until its connection
/// ends.
const PASST: &str = r#"#!/bin/bash
if [ "$1" = --version ]; then echo 'passt 2025_05_03.stand-in'; exit; fi
echo "$@" >> /srv/passt-lines
socket=${!#}
socket=${socket#--fd=}
printf '\1\0\0\0\5\0\0\0\10\0\0\0\0\0\0\0\0\0\0\0' >&"$socket"
exec cat <&"$socket" > /dev/null
"#;
/// A stand-in for its helper: notes that it is shown a socket, goes there, and stays until that ends.
const PASST_REPAIR: &str = r#"#!/usr/bin/perl
use Socket;
my $shown;
until (($shown) = glob("$ARGV[0]/*.repair")) { select(undef, undef, undef, 0.02); }
open(my $log, ">>", "/srv/repairs");
print $log "shown\n";
close $log;
socket(my $there, PF_UNIX, SOCK_STREAM, 0);
connect($there, sockaddr_un($shown)) or die "$shown: $!";
sysread($there, my $byte, 1);
"#;
const OTHER4: &str = "10.244.0.6";
const OTHER6: &str = "fd00:10:244::6";

fn manifest() -> Value {
    let mut manifest = vmi(Value::Null);
    set(
        &mut manifest,
        "/spec/domain/devices/interfaces",
        json!([{"name": "default", "passt": {}, "macAddress": GUEST_MAC, "ports": [{"port": 8080}]}]),
    );
    manifest
}

pub(super) fn put_passt(pod: &Pod) -> Result<()> {
    fs::create_dir(pod.path("bin"))?;
    for (program, text) in [("bin/passt", PASST), ("bin/passt-repair", PASST_REPAIR)] {
        write_script(&pod.path(program), text)?;
    }
    for file in ["passt-lines", "repairs"] {
        fs::write(pod.path(file), "")?;
        fs::set_permissions(pod.path(file), Permissions::from_mode(0o666))?;
    }
    Ok(())
}

pub(super) fn run(pod: &Pod, options: &[&str]) -> Result<Process> {
    let mut entry = pod.entry();
    entry.binds.push((pod.path(""), FILES.into()));
    let mut args = vec![
        "run",
        "--vmi",
        "-",
        "--state-dir",
        "/srv/state",
        "--image",
        "kernel-boot=/srv/image",
        "--cloud-hypervisor",
        "/srv/vmm/standin-vmm",
    ];
    args.extend(options);
    let mut command = pod.command_as(&entry, &pod.path("hawser"), &args)?;
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{FILES}/bin:{path}"));
    let mut process = Process::spawn("hawser", &mut command)?;
    let _ = process.feed(&manifest().to_string());
    Ok(process)
}

/// How each passt of a pod was started.
fn lines(pod: &Pod) -> Result<Vec<String>> {
    let lines = fs::read_to_string(pod.path("passt-lines"))?;
    Ok(lines.lines().map(str::to_owned).collect())
}

fn expect_addresses(line: Option<&String>, wanted: &[&str]) -> Result<()> {
    let line = line.context("no passt was started")?;
    let found: Vec<_> = line
        .split(' ')
        .filter_map(|argument| argument.strip_prefix("--address="))
        .collect();
    ensure!(found == wanted, "not {wanted:?}: {line}");
    Ok(())
}

/// Two pods with a wire for the launchers, the second with addresses of its own if that is asked for.
fn pods(context: &Context, privileges: Privileges, others: bool) -> Result<[Pod; 2]> {
    let spec = || PodSpec {
        privileges,
        ..PodSpec::default()
    };
    let from = Pod::new(&context.programs, spec())?;
    let to = Pod::new(&context.programs, spec())?;
    from.netns.ip(&format!(
        "link add mig0 type veth peer name mig0 netns {}",
        to.netns.name()
    ))?;
    let authority = Authority::new("migration")?;
    for (pod, address) in [(&from, "10.99.0.1"), (&to, "10.99.0.2")] {
        pod.netns.ip(&format!("address add {address}/24 dev mig0"))?;
        pod.netns.ip("link set mig0 up")?;
        pod.script(&quick())?;
        put_passt(pod)?;
        certify(&authority, pod, address)?;
    }
    if others {
        to.netns.ip("address flush dev eth0 scope global")?;
        to.netns.ip(&format!("address add {OTHER4}/24 dev eth0"))?;
        to.netns.ip(&format!("address add {OTHER6}/64 dev eth0 nodad"))?;
    }
    Ok([from, to])
}

/// What is put aside and cannot be taken up would end without a word to the other side.
fn asks_its_helper_for_the_same_addresses_only(context: &Context) -> Result<()> {
    let both = [Privileges::NetAdmin, Privileges::Root];
    for (privileges, others) in both
        .into_iter()
        .zip([false, true])
        .chain([(Privileges::Nothing, false)])
    {
        let [from, to] = pods(context, privileges, others)?;
        let mut source = run(&from, &[])?;
        source.wait_for(r#"event="guest-running""#, 1, SOON)?;
        let mut target = run(&to, &["--incoming", TLS[0], TLS[1]])?;
        target.wait_for(r#"event="waiting-for-guest""#, 1, SOON)?;
        let mut moving = migrate(&from, &TLS)?;
        let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
        expect_exit(code, 0, &moving).with_context(|| target.transcript())?;
        // At the source once more before, for the resets that its kernel is not to send.
        let wanted = match (privileges, others) {
            (Privileges::Nothing, _) | (_, true) => [0, 0],
            _ => [2, 1],
        };
        for (pod, launcher, wanted) in [(&from, &source, wanted[0]), (&to, &target, wanted[1])] {
            let count = || Ok::<_, anyhow::Error>(fs::read_to_string(pod.path("repairs"))?.lines().count());
            // The helper writes them down when it comes to it.
            let _ = until("the helper is shown its sockets", SOON, || {
                Ok((count()? >= wanted).then_some(()))
            });
            let shown = count()?;
            ensure!(
                shown == wanted,
                "{privileges:?}, other addresses {others}: a helper was shown a socket {shown} times, not {wanted}: {}",
                launcher.transcript()
            );
        }
        target.signal(Signal::SIGTERM)?;
        let code = target.wait_exit(SOON)?.code().unwrap_or(-1);
        expect_exit(code, 0, &target)?;
        let code = source.wait_exit(SOON)?.code().unwrap_or(-1);
        expect_exit(code, 0, &source)?;
        // The kernel of a pod whose connections have gone along resets nothing, for good.
        for (pod, silent) in [(&from, wanted[0] > 0), (&to, false)] {
            let tables = pod.netns.nft("list tables")?;
            ensure!(
                tables.contains("inet hawser-silence") == silent,
                "{privileges:?}, other addresses {others}: to be silent {silent}: {tables:?}"
            );
        }
    }
    Ok(())
}

fn takes_its_addresses_along(context: &Context) -> Result<()> {
    let [from, to] = pods(context, Privileges::Root, true)?;
    let mut source = run(&from, &[])?;
    source.wait_for(r#"event="guest-running""#, 1, SOON)?;
    let mut target = run(&to, &["--incoming", TLS[0], TLS[1]])?;
    target.wait_for(r#"event="waiting-for-guest""#, 1, SOON)?;
    let guests = [POD4.to_string(), POD6.to_string()];
    let guests: Vec<_> = guests.iter().map(String::as_str).collect();
    expect_addresses(lines(&from)?.first(), &guests).context("at the source")?;
    expect_addresses(lines(&to)?.first(), &[OTHER4, OTHER6]).context("before it comes")?;

    let mut moving = migrate(&from, &TLS)?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &moving).with_context(|| target.transcript())?;
    let code = source.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &source)?;
    let started = lines(&to)?;
    ensure!(started.len() == 2, "{started:#?}");
    expect_addresses(started.last(), &guests).context("for the guest that came")?;
    let gateway = format!("--gateway={NODE4}");
    ensure!(
        started.last().is_some_and(|line| line.contains(&gateway)),
        "not the guest's router: {started:#?}"
    );
    let shown = status(&to)?;
    let addresses = shown.pointer("/nics/0/addresses").and_then(Value::as_array);
    let first = addresses.and_then(|all| all.first()?.as_str());
    ensure!(
        first.is_some_and(|first| first.starts_with(&format!("{POD4}/"))),
        "status: {shown}"
    );

    // No further, before it has been rebooted.
    let mut moving = migrate(&to, &TLS)?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 9, &moving)?;
    ensure!(
        moving.transcript().contains("until it reboots"),
        "{}: to {TO}",
        moving.transcript()
    );
    target.signal(Signal::SIGTERM)?;
    let code = target.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &target)
}

//! A pod that runs out of something, and an nft that does not do its work: each ends bounded, with one error that says what is
//! missing and what to do, or the guest goes on without it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Context;
use super::running::{Running, WAIT, exit_code, expect_exit, processes};
use crate::guests::Guest;
use crate::netns::Snapshot;
use crate::pods::{Pod, PodSpec, VMM_UID, set, vmi};
use crate::process::{Process, output};
use crate::programs::write_script;
use crate::report::Scenario;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "a state directory that is full at the start: exit code 4, nothing touched",
        run: full_at_the_start,
    },
    Scenario {
        name: "a state directory that fills up while the guest runs",
        run: |c| in_the_middle(c, fill),
    },
    Scenario {
        name: "a state directory that becomes read-only while the guest runs",
        run: |c| in_the_middle(c, make_read_only),
    },
    Scenario {
        name: "less room than the guest's temporary disks can take is said",
        run: little_room,
    },
    Scenario {
        name: "too few descriptors for a launcher: exit code 4, nothing touched",
        run: few_descriptors,
    },
    Scenario {
        name: "each process runs out of descriptors while the guest runs",
        run: descriptors_run_out,
    },
    Scenario {
        name: "nft fails: exit code 4, namespace as found",
        run: nft_fails,
    },
    Scenario {
        name: "nft hangs: exit code 4 within a bound, namespace as found",
        run: nft_hangs,
    },
    Scenario {
        name: "nft hangs when the wiring is taken down: exit code 8 within a bound, and the next start takes it down",
        run: nft_hangs_at_the_end,
    },
];

/// The state directory as a small file system, which is there until this is dropped.
struct Small {
    at: PathBuf,
}

impl Small {
    fn mount(pod: &Pod, kib: u32) -> Result<Self> {
        let at = pod.path("state");
        let options = format!("size={kib}k,mode=755");
        output(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
                .arg(&at),
        )?;
        Ok(Self { at })
    }

    /// Writes until there is no room.
    fn fill(&self) -> Result<()> {
        use std::io::Write;
        let mut file = fs::File::create(self.at.join("filler"))?;
        loop {
            match file.write_all(&[0; 1024]) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = output(Command::new("umount").arg("-l").arg(&self.at));
    }
}

fn unchanged(pod: &Pod, before: &Snapshot, hawser: &Process) -> Result<()> {
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(
        changes.is_empty(),
        "left behind: {changes:#?}\n{}",
        hawser.transcript()
    );
    let left = processes(pod)?;
    ensure!(left.is_empty(), "processes left behind: {left:?}");
    Ok(())
}

/// One error of each half at most, with a remedy.
fn errors(hawser: &Process, most: usize) -> Result<()> {
    let said = hawser.stderr();
    let errors = said.lines().filter(|line| line.starts_with("hawser: ")).count();
    let remedies = said.lines().filter(|line| line.starts_with("  remedy: ")).count();
    ensure!(
        (1..=most).contains(&errors) && remedies == errors,
        "not one error with a remedy:\n{}",
        hawser.transcript()
    );
    Ok(())
}

fn full_at_the_start(context: &Context) -> Result<()> {
    for kib in [4, 8, 12, 16] {
        let pod = Pod::new(&context.programs, PodSpec::default())?;
        let small = Small::mount(&pod, kib)?;
        small.fill()?;
        let before = pod.netns.snapshot()?;
        let mut vmi = vmi(Value::Null);
        set(
            &mut vmi,
            "/spec/volumes",
            json!([{"name": "seed", "cloudInitNoCloud": {"userData": "#cloud-config"}}]),
        );
        let mut hawser = pod.hawser("run", &vmi)?;
        expect_exit(exit_code(&mut hawser)?, 4, &hawser).with_context(|| format!("{kib} KiB"))?;
        // Both halves write, and neither waits for the other.
        errors(&hawser, 2)?;
        ensure!(
            hawser.stderr().contains("No space left"),
            "{}",
            hawser.transcript()
        );
        unchanged(&pod, &before, &hawser)?;
    }
    Ok(())
}

fn fill(small: &Small, _: &Running) -> Result<()> {
    small.fill()
}

/// The launcher's own files that are open stay writable, as no kernel makes them read-only; whatever it opens by its name is
/// not.
fn make_read_only(small: &Small, running: &Running) -> Result<()> {
    let pid = running.hawser.pid().to_string();
    let at = small.at.to_str().context("path is not UTF-8")?;
    for args in [&["--bind", at, at][..], &["-o", "remount,bind,ro", at][..]] {
        output(
            Command::new("nsenter")
                .args(["-t", &pid, "-m", "mount"])
                .args(args),
        )?;
    }
    Ok(())
}

fn in_the_middle(context: &Context, run_out: fn(&Small, &Running) -> Result<()>) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let small = Small::mount(&pod, 512)?;
    let before = pod.netns.snapshot()?;
    let mut guest = Guest::new(&pod)?;
    let hawser = pod.hawser("run", &vmi(json!([{"port": 80}])))?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    run_out(&small, &running)?;
    // The guest prints, gets its addresses, and its state can be asked for.
    for _ in 0..100 {
        running.guest.say(&"x".repeat(1000))?;
    }
    running.explain(running.guest.configure())?;
    let state = running.pod.path("state").display().to_string();
    let mut asked = Process::spawn(
        "status",
        &mut running.pod.command_as(
            &running.pod.entry(),
            &running.pod.path("hawser"),
            &["status", "--state-dir", &state],
        )?,
    )?;
    let code = asked.wait_exit(WAIT)?.code().unwrap_or(-1);
    running.explain(expect_exit(code, 0, &asked))?;
    ensure!(asked.stdout().contains("running"), "{}", asked.transcript());
    running.stop_cleanly()?;
    ensure!(
        running.hawser.stderr().contains("event=\"status-write-failed\""),
        "nothing says what could not be written:\n{}",
        running.hawser.transcript()
    );
    unchanged(&running.pod, &before, &running.hawser)
}

fn little_room(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let _small = Small::mount(&pod, 512)?;
    let mut guest = Guest::new(&pod)?;
    let mut vmi = vmi(Value::Null);
    set(
        &mut vmi,
        "/spec/volumes",
        json!([{"name": "scratch", "emptyDisk": {"capacity": "4Mi"}}]),
    );
    let hawser = pod.hawser("run", &vmi)?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    running.explain(running.hawser.wait_for("event=\"disk-room-short\"", 1, WAIT))?;
    running.stop_cleanly()
}

fn few_descriptors(context: &Context) -> Result<()> {
    for most in [5, 8, 16, 24, 32, 48, 63] {
        let pod = Pod::new(&context.programs, PodSpec::default())?;
        let before = pod.netns.snapshot()?;
        let mut entry = pod.entry();
        entry.max_files = Some(most);
        let mut hawser = pod.hawser_as(&entry, "run", &vmi(Value::Null), &[])?;
        expect_exit(exit_code(&mut hawser)?, 4, &hawser).with_context(|| format!("{most} descriptors"))?;
        errors(&hawser, 1)?;
        ensure!(
            hawser
                .stderr()
                .contains(&format!("hawser may have {most} files open")),
            "{}",
            hawser.transcript()
        );
        unchanged(&pod, &before, &hawser)?;
    }
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let mut guest = Guest::new(&pod)?;
    let mut entry = pod.entry();
    entry.max_files = Some(64);
    let hawser = pod.hawser_as(&entry, "run", &vmi(json!([{"port": 80}])), &[])?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    running.explain(running.guest.configure())?;
    running.stop_cleanly()
}

/// A supervisor that can open nothing cannot reach the VMM's API either: the guest is killed after its grace period. The privileged process takes the wiring down, for which it needs
/// some: without them it says so, and the next start takes it down.
fn descriptors_run_out(context: &Context) -> Result<()> {
    for (victim, wanted) in [("supervisor", 7), ("privileged process", 8)] {
        let pod = Pod::new(&context.programs, PodSpec::default())?;
        let before = pod.netns.snapshot()?;
        let mut guest = Guest::new(&pod)?;
        let manifest = vmi(json!([{"port": 80}]));
        let hawser = pod.hawser("run", &manifest)?;
        guest.booted_by(&hawser)?;
        let mut running = Running { hawser, guest, pod };
        let itself = super::confinement::hawser_itself(&running.pod)?;
        let all = processes(&running.pod)?;
        let supervisor = all
            .iter()
            .find(|(pid, name)| name == "hawser" && *pid != itself)
            .context("no supervisor")?
            .0;
        let pid = if victim == "supervisor" {
            supervisor
        } else {
            itself
        };
        // Those that are open stay so.
        // By its own user: nobody else may without CAP_SYS_RESOURCE.
        let (uid, gid) = match victim {
            "supervisor" => (VMM_UID.to_string(), VMM_UID.to_string()),
            _ => ("0".to_owned(), "0".to_owned()),
        };
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &uid, "--regid", &gid, "--clear-groups"]);
        command.args(["prlimit", "--pid", &pid.to_string(), "--nofile=1:1"]);
        output(&mut command)?;
        running.explain(running.guest.configure())?;
        let code = running.stop()?;
        expect_exit(code, wanted, &running.hawser).with_context(|| victim.to_owned())?;
        ensure!(
            running.hawser.stderr().contains("Too many open files"),
            "{}",
            running.hawser.transcript()
        );
        if wanted == 8 {
            running.hawser = running.pod.hawser("run", &manifest)?;
            running.guest.booted_by(&running.hawser)?;
            running.stop_cleanly()?;
        }
        unchanged(&running.pod, &before, &running.hawser)?;
    }
    Ok(())
}

/// Has this script run where hawser runs nft.
fn with_nft(pod: &Pod, script: &str) -> Result<crate::entry::Entry> {
    let real = ["/usr/sbin/nft", "/sbin/nft"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.exists())
        .context("no nft")?;
    crate::programs::copy(real, &pod.path("nft-itself"))?;
    let script = script.replace("NFT", &pod.path("nft-itself").display().to_string());
    write_script(&pod.path("nft"), &script)?;
    fs::set_permissions(pod.path("nft"), fs::Permissions::from_mode(0o755))?;
    let mut entry = pod.entry();
    entry.binds.push((pod.path("nft"), real.to_owned()));
    Ok(entry)
}

fn without_nft(context: &Context, script: &str, limit: Duration, said: &str) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let entry = with_nft(&pod, script)?;
    let before = pod.netns.snapshot()?;
    let mut hawser = pod.hawser_as(&entry, "run", &vmi(Value::Null), &[])?;
    let code = hawser.wait_exit(limit)?.code().unwrap_or(-1);
    expect_exit(code, 4, &hawser)?;
    errors(&hawser, 1)?;
    ensure!(
        hawser.stderr().contains(said),
        "no {said:?}:\n{}",
        hawser.transcript()
    );
    unchanged(&pod, &before, &hawser)
}

fn nft_fails(context: &Context) -> Result<()> {
    // Only the rules of a guest: what takes them away works.
    let script = "#!/bin/sh\ntext=$(cat)\ncase $text in\n*chain*) echo 'no memory for rules' >&2; exit 1 ;;\nesac\nexec NFT \"$@\" <<.\n$text\n.\n";
    without_nft(context, script, WAIT, "no memory for rules")
}

fn nft_hangs(context: &Context) -> Result<()> {
    let script = "#!/bin/sh\ntext=$(cat)\ncase $text in\n*chain*) exec sleep 600 ;;\nesac\nexec NFT \"$@\" <<.\n$text\n.\n";
    without_nft(
        context,
        script,
        Duration::from_secs(30),
        "nft has not loaded the rule set within",
    )?;
    // One that does not read.
    let script = "#!/bin/sh\nexec sleep 600\n";
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let entry = with_nft(&pod, script)?;
    let before = pod.netns.snapshot()?;
    let mut hawser = pod.hawser_as(&entry, "run", &vmi(Value::Null), &[])?;
    let code = hawser.wait_exit(Duration::from_secs(40))?.code().unwrap_or(-1);
    expect_exit(code, 4, &hawser)?;
    ensure!(
        hawser.stderr().contains("the next start in this pod undoes it"),
        "{}",
        hawser.transcript()
    );
    unchanged(&pod, &before, &hawser)
}

fn nft_hangs_at_the_end(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let flag = pod.path("nft-hangs");
    let script = format!(
        "#!/bin/sh\n[ -e {} ] && exec sleep 600\nexec NFT \"$@\"\n",
        flag.display()
    );
    let entry = with_nft(&pod, &script)?;
    let before = pod.netns.snapshot()?;
    let mut guest = Guest::new(&pod)?;
    let hawser = pod.hawser_as(&entry, "run", &vmi(Value::Null), &[])?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    fs::write(&flag, "")?;
    running.hawser.signal(Signal::SIGTERM)?;
    let code = running
        .hawser
        .wait_exit(Duration::from_secs(30))?
        .code()
        .unwrap_or(-1);
    expect_exit(code, 8, &running.hawser)?;
    ensure!(
        running.hawser.stderr().contains("nft has not loaded"),
        "{}",
        running.hawser.transcript()
    );
    let left = processes(&running.pod)?;
    ensure!(left.is_empty(), "processes left behind: {left:?}");
    fs::remove_file(&flag)?;
    running.hawser = running.pod.hawser_as(&entry, "run", &vmi(Value::Null), &[])?;
    running.guest.booted_by(&running.hawser)?;
    running.stop_cleanly()?;
    unchanged(&running.pod, &before, &running.hawser)
}

//! A guest that writes without pause to a disk of the pod's own, whose content goes along: a migration, and every fault of one.
//!
//! The stand-in's guest numbers its records, and reads each back before it writes the next one. What a record holds depends on all
//! before it. So a record that was not copied, or copied before it was written, shows in the guest and on the disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Context;
use super::migration_disks::{nothing_wrong, writes};
use super::migration_faults::{Small, at, disturb, each, lost};
use super::migration_pair::{PATIENCE, Pair, SOON, TLS, explain, migrate, quick};
use super::running::expect_exit;
use crate::pods::{Pod, set, vmi};
use crate::process::{output, until};
use crate::report::Scenario;
use crate::standin_record::{RECORD, RECORDS, check};
use crate::standin_script::{Fault, Script, Step};

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "a guest moves with a disk of the pod's own that it writes",
        run: moves,
    },
    Scenario {
        name: "a disk of the pod's own, each step failing",
        run: faults,
    },
    Scenario {
        name: "a disk of the pod's own that is not copied",
        run: refused,
    },
];

const SIZE: u64 = 64 << 20;

/// What the disk is.
#[derive(Clone, Copy, Debug)]
enum Source {
    Empty { cache: &'static str },
    Image,
}

const EMPTY: Source = Source::Empty { cache: "writeback" };
/// The image's own content, beyond all that the guest writes.
const OF_THE_IMAGE: u64 = SIZE - 512;

fn guest(source: Source) -> Value {
    let mut guest = vmi(Value::Null);
    let (cache, volume) = match source {
        Source::Empty { cache } => (
            cache,
            json!([{"name": "data", "emptyDisk": {"capacity": SIZE.to_string()}}]),
        ),
        Source::Image => (
            "writeback",
            json!([{"name": "data", "containerDisk": {"image": "example/data"}}]),
        ),
    };
    set(
        &mut guest,
        "/spec/domain/devices/disks",
        json!([{"name": "data", "disk": {"bus": "virtio"}, "cache": cache}]),
    );
    set(&mut guest, "/spec/volumes", volume);
    set(&mut guest, "/spec/evictionStrategy", json!("LiveMigrate"));
    guest
}

fn pair(context: &Context, source: Source, here: &Script, there: &Script) -> Result<Pair> {
    let guest = guest(source);
    let (here, there) = (writes(here.clone()), writes(there.clone()));
    let options = ["--image", "data=/srv/data-image"];
    let options = match source {
        Source::Empty { .. } => &[][..],
        Source::Image => &options,
    };
    // The target's image is another one: the content comes from the source.
    Pair::prepared(context, (&here, &guest), (&there, &guest), options, |from, to| {
        for (pod, content) in [(from, "the source's"), (to, "the target's")] {
            let directory = pod.path("data-image/disk");
            std::fs::create_dir_all(&directory)?;
            let image = File::create(directory.join("disk.raw"))?;
            image.set_len(SIZE)?;
            image.write_all_at(content.as_bytes(), OF_THE_IMAGE)?;
        }
        Ok(())
    })
}

/// The disk in a pod. It stays readable when it is deleted.
struct Disk(File);

impl Disk {
    fn path(pod: &Pod) -> PathBuf {
        pod.path("state/vmm/disks/data.img")
    }

    fn of(pod: &Pod) -> Result<Self> {
        let path = Self::path(pod);
        let opened = File::options().read(true).write(true).open(&path);
        Ok(Self(opened.with_context(|| path.display().to_string())?))
    }

    /// What a guest has that does not only write records: the beginning of each MiB but the first.
    fn fill(&self, bytes: usize) -> Result<()> {
        for mib in 1..SIZE >> 20 {
            self.0.write_all_at(&vec![u8::try_from(mib)?; bytes], mib << 20)?;
        }
        Ok(())
    }

    fn is_filled(&self, bytes: usize) -> Result<()> {
        for mib in 1..SIZE >> 20 {
            let mut found = vec![0; bytes];
            self.0.read_exact_at(&mut found, mib << 20)?;
            let wanted = u8::try_from(mib)?;
            ensure!(
                found.iter().all(|byte| *byte == wanted),
                "MiB {mib} is not as it was"
            );
        }
        Ok(())
    }

    fn check(&self) -> Result<(u64, usize)> {
        Ok(check(&self.0)?)
    }

    /// Waits until somebody has written so many more.
    fn grows(&self, more: u64) -> Result<u64> {
        let now = || until("the records fit together", SOON, || Ok(self.check().ok()));
        let (before, _) = now()?;
        until("the guest writes on", SOON, || {
            let (now, _) = now()?;
            Ok((now > before + more).then_some(now))
        })
    }
}

fn moves(context: &Context) -> Result<()> {
    each(
        [EMPTY, Source::Empty { cache: "none" }, Source::Image]
            .map(|source| (format!("{source:?}"), source))
            .to_vec(),
        |what| {
            let mut pair = pair(context, what, &quick(), &quick())?;
            let source = Disk::of(&pair.from)?;
            source.fill(512)?;
            let before = source.grows(RECORDS)?;
            let target = Disk::of(&pair.to)?;
            let mut moving = pair.migrate()?;
            let result = (|| {
                let code = moving.wait_exit(PATIENCE)?.code().unwrap_or(-1);
                expect_exit(code, 0, &moving)?;
                for said in [
                    "copying: the target is ready; the guest's disks are being copied",
                    "over the guest's disks, in the pause:",
                ] {
                    ensure!(moving.stdout().contains(said), "not said: {said}");
                }
                let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
                expect_exit(code, 0, &pair.source)?;
                // The source's guest has written its last record, and the target's all after it.
                let (last, _) = source.check().context("the source's disk at the end")?;
                ensure!(last >= before, "record {last} after {before}");
                let after = target.grows(20)?;
                ensure!(after > last, "record {after} after {last}");
                target.is_filled(512)?;
                if let Source::Image = what {
                    let mut content = [0; 12];
                    target.0.read_exact_at(&mut content, OF_THE_IMAGE)?;
                    ensure!(&content == b"the source's", "the image's content: {content:?}");
                }
                pair.target.signal(Signal::SIGTERM)?;
                let code = pair.target.wait_exit(SOON)?.code().unwrap_or(-1);
                expect_exit(code, 0, &pair.target)?;
                let (end, writers) = target.check().context("the target's disk at the end")?;
                ensure!(end >= after && writers <= 2, "record {end}, {writers} writers");
                ensure!(!Disk::path(&pair.to).exists(), "the disk is left");
                nothing_wrong(&pair)
            })();
            explain(&pair, "", result)
        },
    )
}

/// When the fault comes.
#[derive(Clone, Copy, Debug)]
enum When {
    /// By itself.
    Scripted,
    Copying,
    /// In the pause, when the disk is copied and the target's VMM has not restored the guest.
    Paused,
}

/// What becomes of the guest.
#[derive(Clone, Copy, Debug)]
enum Then {
    Stays,
    /// After the commit, with the target's VMM.
    Lost,
}

fn faults(context: &Context) -> Result<()> {
    let mut cases = Vec::new();
    for fault in [Fault::Fail, Fault::Die] {
        for (step, then) in [
            (Step::Config, Then::Stays),
            (Step::Memory, Then::Stays),
            (Step::State, Then::Stays),
            (Step::Complete, Then::Lost),
            (Step::Completed, Then::Lost),
        ] {
            let name = format!("target {step:?} {fault:?}");
            cases.push((name, (quick(), at(step, fault), When::Scripted, then, "")));
        }
    }
    for step in [Step::Memory, Step::State, Step::Complete] {
        let name = format!("source {step:?} fails");
        let case = (at(step, Fault::Fail), quick(), When::Scripted, Then::Stays, "");
        cases.push((name, case));
    }
    let hangs = || at(Step::State, Fault::Hang);
    for disturbance in [
        "cut",
        "cancelled",
        "target killed",
        "source killed",
        "source stopped",
    ] {
        for (when, there) in [(When::Copying, quick()), (When::Paused, hangs())] {
            let name = format!("{when:?} {disturbance}");
            cases.push((name, (quick(), there, when, Then::Stays, disturbance)));
        }
    }
    each(cases, |(here, there, when, then, disturbance)| {
        let mut pair = pair(context, EMPTY, &here, &there)?;
        let source = Disk::of(&pair.from)?;
        // So that its first round takes seconds.
        let bytes = if matches!(when, When::Copying) {
            slow_down(&pair.from)?;
            1 << 20
        } else {
            512
        };
        source.fill(bytes)?;
        source.grows(20)?;
        let moving = migrate(
            &pair.from,
            &[&TLS[..], &["--max-downtime", "12s", "--downtime", "5s"]].concat(),
        )?;
        let result = (|| {
            match when {
                When::Scripted => {}
                When::Copying => {
                    moving.wait_for("copying: the target is ready", 1, SOON)?;
                    ensure!(!moving.stdout().contains("sending:"), "copied already");
                }
                When::Paused => {
                    moving.wait_for("over the guest's disks, in the pause:", 1, PATIENCE)?;
                }
            }
            match (then, disturbance) {
                (Then::Lost, _) => lost(&mut pair, moving)?,
                (Then::Stays, "") => pair.stays(moving)?,
                (Then::Stays, _) => disturb(&mut pair, moving, disturbance)?,
            }
            nothing_wrong(&pair)?;
            // Of the source alone, and none of it lost.
            let (last, writers) = source.check().context("the source's disk at the end")?;
            ensure!(last > 20 && writers == 1, "{last} records of {writers} writers");
            source.is_filled(bytes)?;
            ensure!(
                matches!(then, Then::Lost) || !Disk::path(&pair.to).exists(),
                "the target's disk is left"
            );
            Ok(())
        })();
        explain(&pair, "", result)
    })
}

/// 64 MiB take five seconds.
fn slow_down(pod: &Pod) -> Result<()> {
    const TC: &str = "tc qdisc add dev mig0 root tbf rate 100mbit burst 256kb latency 200ms";
    let mut command = std::process::Command::new("ip");
    command
        .args(["netns", "exec", pod.netns.name()])
        .args(TC.split(' '));
    output(&mut command).map(drop)
}

fn refused(context: &Context) -> Result<()> {
    let cases = [
        ("too long for the pause", "--downtime"),
        ("no room at the target", "No space left on device"),
    ];
    let cases = cases.map(|(name, why)| (name.to_owned(), (name, why))).to_vec();
    each(cases, |(name, why)| {
        let guest = guest(EMPTY);
        let script = writes(quick());
        let mut small = None;
        let mut pair = Pair::prepared(context, (&script, &guest), (&script, &guest), &[], |_, to| {
            if name == "no room at the target" {
                small = Some(Small::mount(to)?);
            }
            Ok(())
        })?;
        let source = Disk::of(&pair.from)?;
        source.fill(4096)?;
        source.grows(20)?;
        let downtime = if name == "too long for the pause" {
            "1ms"
        } else {
            "5s"
        };
        let moving = migrate(&pair.from, &[&TLS[..], &["--downtime", downtime]].concat())?;
        let result = (|| {
            moving.wait_for(why, 1, PATIENCE)?;
            pair.stays(moving)?;
            let (last, writers) = source.check()?;
            ensure!(last > 20 && writers == 1, "{last} records of {writers} writers");
            nothing_wrong(&pair)
        })();
        let result = explain(&pair, "", result);
        drop(pair);
        result
    })?;
    ensure!(RECORD as u64 * RECORDS < 1 << 20, "records and filling meet");
    Ok(())
}

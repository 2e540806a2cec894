//! `migrate` and `cancel`: look, decide, do one thing, and look again.
//!
//! | what is there | what is done |
//! |---|---|
//! | a target; the guest runs in it | networks are told: the target is settled |
//! | a target; the hand-off goes on | it is followed |
//! | a target that waits; the guest runs at the source | the hand-off is begun |
//! | a target; a hand-off that this run began has failed | the target is removed |
//! | a settled target and its source | the source is removed once the target is ready |
//! | the guest's pod alone | the PodDisruptionBudget is put back; a target is made, unless this run has done its work |
//!
//! Nothing else is remembered than what this run has begun, so that another run goes on wherever one was interrupted.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hawser_kubernetes::TargetOf;

use crate::attempt::{Attempt, Launchers};
use crate::budget;
use crate::cli::{MigrateArgs, PaceArgs};
use crate::failure::Failure;
use crate::kubectl::{Background, Kubectl};
use crate::launcher::{Launcher, Migration, within};
use crate::placement;
use crate::pod::{Phase, Pod};
use crate::scene::Scene;
use crate::steps;
use crate::verdict::{Verdict, waits};

/// For the source's launcher to have heard of a migration, through an exec whose stream may hang.
const HEARD: Duration = Duration::from_secs(60);
/// How errors of hawser begin, and kubectl's own do not.
const OF_HAWSER: &str = "hawser: ";
/// What kubectl says when a program in a pod has failed.
const HAS_RUN: &str = "command terminated with exit code";

pub(crate) fn migrate(kubectl: &Kubectl, args: &MigrateArgs) -> Result<ExitCode, Failure> {
    let mut run = Attempt::new(kubectl, &args.guest, &args.pace);
    let mut own = Own::default();
    loop {
        let Some(scene) = run.look()? else { continue };
        if let Some(target) = scene.open_target() {
            run.with_target(&scene, target, args, &mut own)?;
        } else if let Some((source, target)) = scene.left_behind() {
            own.is_done = true;
            run.remove_source(source, target)?;
        } else {
            let step = budget::lower(kubectl, &args.guest);
            if run.failed(step)? {
                continue;
            }
            let holder = match scene.holder(&args.guest) {
                Err(Failure::Refused(why)) if own.is_done => {
                    return Err(Failure::GuestEnded(format!(
                        "the guest has migrated, and ended since: {why}"
                    )));
                }
                other => other?,
            };
            let is_there = args.to.is_none() || args.to == holder.node;
            if is_there && (own.is_done || args.to.is_some()) {
                println!("the guest {} runs in {}", args.guest, holder.place());
                return Ok(ExitCode::SUCCESS);
            }
            if let Some(failure) = own.failure.take() {
                return Err(failure);
            }
            if own.has_begun {
                return Err(Failure::NotMigrated(format!(
                    "the guest stays in {}: somebody has removed its target",
                    holder.place()
                )));
            }
            run.begin(holder, args, &mut own)?;
        }
    }
}

pub(crate) fn cancel(kubectl: &Kubectl, guest: &str, pace: &PaceArgs) -> Result<ExitCode, Failure> {
    let mut run = Attempt::new(kubectl, guest, pace);
    let mut is_asked = false;
    let mut is_late = false;
    let mut was_there = false;
    loop {
        let Some(scene) = run.look()? else { continue };
        if let Some(target) = scene.open_target() {
            was_there = true;
            let source = scene.source_of(target);
            let (launchers, verdict) = run.ask(source, target);
            match verdict {
                Verdict::Migrated => {
                    is_late = true;
                    run.settle(target)?;
                }
                Verdict::UnderWay if !is_asked => {
                    is_asked = true;
                    if let Some(source) = source {
                        // It may come too late, and its answer may be lost: what the launchers say next counts.
                        match kubectl.ask(&within(&source.name, &["migrate", "--cancel"])) {
                            Ok(said) => run.progress.say(said.trim()),
                            Err(error) => run.progress.say(&error.to_string()),
                        }
                    }
                }
                Verdict::UnderWay => run.follow(&launchers),
                Verdict::Stays(_) => run.remove_target(target)?,
                Verdict::Ended(why) => {
                    run.remove_target(target)?;
                    run.lower()?;
                    return Err(Failure::GuestEnded(format!("the guest {guest} has ended: {why}")));
                }
                Verdict::Open(why) => run.wait_for_word(&why)?,
            }
            run.pause();
        } else if let Some((source, target)) = scene.left_behind() {
            run.remove_source(source, target)?;
        } else {
            run.lower()?;
            let holder = scene.holder(guest)?;
            if is_late {
                return Err(Failure::NotMigrated(format!(
                    "too late to cancel: the guest {guest} runs in {}",
                    holder.place()
                )));
            }
            match was_there {
                true => println!("cancelled: the guest {guest} runs in {}", holder.place()),
                false => println!(
                    "no migration of the guest {guest} is under way: it runs in {}",
                    holder.place()
                ),
            }
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Deletes a guest's pod, and waits until it is gone: the launcher presses the power button, and kills the guest after its grace period.
pub(crate) fn shut_down(kubectl: &Kubectl, guest: &str, pod: &Pod, pace: &PaceArgs) -> Result<(), Failure> {
    Attempt::new(kubectl, guest, pace).remove(pod, "the guest's pod")
}

/// What this run itself has begun.
#[derive(Debug, Default)]
struct Own {
    has_begun: bool,
    exec: Option<Exec>,
    /// An exec had ended before the launcher heard of it.
    has_asked_again: bool,
    /// The guest has migrated while this run was there.
    is_done: bool,
    /// What is to be reported once the cluster is as it was.
    failure: Option<Failure>,
    /// When the target was seen first.
    seen: Option<Instant>,
}

/// `hawser migrate` in the source's pod.
#[derive(Debug)]
struct Exec {
    kubectl: Background,
    begun: Instant,
    /// What the source said of its last migration before.
    before: Option<Migration>,
    /// The last line that it has printed; hawser's own error, where there is one.
    last: Option<String>,
    /// hawser has run in the pod, and ended.
    has_run: bool,
}

impl Exec {
    /// What it has printed since.
    fn hear(&mut self) -> Vec<String> {
        let lines = self.kubectl.lines();
        for line in &lines {
            let error = line.strip_prefix(OF_HAWSER);
            self.has_run |= error.is_some() || line.contains(HAS_RUN);
            if error.is_some() || !self.has_run {
                self.last = Some(error.unwrap_or(line).to_owned());
            }
        }
        lines
    }

    /// Whether nothing more comes of it: its stream has ended, or may hang although the launcher has done with it or never heard of
    /// it.
    fn is_over(&mut self, source: &Launcher) -> bool {
        let last = source.says().and_then(|status| status.migration.as_ref());
        let is_done =
            last.is_some_and(|last| last.is_out() && last.has_ended() && Some(last) != self.before.as_ref());
        self.kubectl.has_ended() || is_done || self.begun.elapsed() >= HEARD
    }
}

impl Attempt<'_> {
    fn begin(&mut self, holder: &Pod, args: &MigrateArgs, own: &mut Own) -> Result<(), Failure> {
        let options = TargetOf {
            node: args.to.clone(),
            keep_tags: args.keep_tags,
            selinux_level: args.selinux_level.clone(),
        };
        let (name, target) = steps::rendered(holder, &options)?;
        match Launcher::of(self.kubectl, holder) {
            Launcher::Says(status) if status.state == "running" => {}
            Launcher::Says(status) => {
                return Err(Failure::Refused(format!(
                    "the guest {} is not running in {}: {}",
                    self.guest,
                    holder.place(),
                    status.state
                )));
            }
            other => {
                return Err(Failure::Refused(format!(
                    "the guest {} cannot be asked in {}: {}",
                    self.guest,
                    holder.place(),
                    spoken(&other)
                )));
            }
        }
        budget::raise(self.kubectl, self.guest, &name)?;
        self.progress.say(&format!(
            "the guest runs in {}; making the target {name}",
            holder.place()
        ));
        own.seen = None;
        match steps::create(self.kubectl, &target) {
            Ok(()) => own.has_begun = true,
            // It may be there nevertheless, which the next look tells.
            Err(error) => own.failure = Some(Failure::Refused(format!("the target is not made: {error}"))),
        }
        Ok(())
    }

    fn with_target(
        &mut self,
        scene: &Scene,
        target: &Pod,
        args: &MigrateArgs,
        own: &mut Own,
    ) -> Result<(), Failure> {
        // That it could not be made was not true.
        own.failure = None;
        let source = scene.source_of(target);
        let (launchers, verdict) = self.ask(source, target);
        for line in own.exec.iter_mut().flat_map(Exec::hear) {
            self.progress.say(&line);
        }
        match verdict {
            Verdict::Migrated => {
                own.exec = None;
                own.is_done = true;
                self.settle(target)?;
            }
            Verdict::UnderWay => self.follow(&launchers),
            Verdict::Stays(why) => match source {
                Some(source) => self.at_source(source, target, &launchers, why, args, own)?,
                None => self.wait_for_word("the source's pod is not there")?,
            },
            Verdict::Ended(why) => {
                self.last_words(target);
                self.remove_target(target)?;
                self.lower()?;
                return Err(Failure::GuestEnded(format!(
                    "the guest {} has ended: {why}",
                    self.guest
                )));
            }
            Verdict::Open(why) => self.wait_for_word(&why)?,
        }
        self.pause();
        Ok(())
    }

    /// The guest runs at the source, and a target is there.
    fn at_source(
        &mut self,
        source: &Pod,
        target: &Pod,
        launchers: &Launchers,
        why: Option<String>,
        args: &MigrateArgs,
        own: &mut Own,
    ) -> Result<(), Failure> {
        let stays = |why: &str| Failure::NotMigrated(format!("the guest stays in {}: {why}", source.place()));
        if let Some(exec) = &mut own.exec {
            if !exec.is_over(&launchers.source) {
                self.progress.still("waiting for the source's launcher to begin");
                return Ok(());
            }
            for line in exec.hear() {
                self.progress.say(&line);
            }
            // What the launcher says may be of an earlier one.
            let now = launchers
                .source
                .says()
                .and_then(|status| status.migration.as_ref());
            let is_fresh = now != exec.before.as_ref();
            let (said, has_run) = (exec.last.take(), exec.has_run);
            own.exec = None;
            if !is_fresh && !has_run && !own.has_asked_again {
                own.has_asked_again = true;
                self.progress
                    .say("the source's launcher has not heard of the migration: asking it again");
                return Ok(());
            }
            let why = why.filter(|_| is_fresh).or(said);
            let why = why.unwrap_or_else(|| "hawser migrate has ended without a result".to_owned());
            own.failure = Some(stays(&why));
            return self.remove_failed(target, own);
        }
        let age = own.seen.get_or_insert_with(Instant::now).elapsed();
        let is_elsewhere = target.node.is_some() && args.to.is_some() && target.node != args.to;
        if !own.has_begun && (is_elsewhere || target.leaves || matches!(target.phase, Phase::Ended(_))) {
            self.progress.say(&format!(
                "removing {}, which an earlier migration has left",
                target.place()
            ));
            own.seen = None;
            return self.remove_target(target);
        }
        let obstacle = placement::obstacle(target, Some(source), age);
        let obstacle = obstacle.or_else(|| {
            (age >= args.start_timeout).then(|| {
                format!(
                    "the target has not started within {}: {}",
                    humantime::format_duration(args.start_timeout),
                    spoken(&launchers.target)
                )
            })
        });
        if let Some(why) = obstacle {
            self.last_words(target);
            own.failure = Some(stays(&why));
            return self.remove_failed(target, own);
        }
        match &launchers.target {
            Launcher::Says(status) if waits(status) => {
                let Some(at_source) = launchers.source.says() else {
                    return Ok(());
                };
                own.has_begun = true;
                self.progress
                    .say(&format!("the target waits in {}", target.place()));
                let kubectl =
                    steps::hand_off(self.kubectl, source, target, &at_source.guest, &passed_on(args))?;
                own.exec = Some(Exec {
                    kubectl,
                    begun: Instant::now(),
                    before: at_source.migration.clone(),
                    last: None,
                    has_run: false,
                });
            }
            other => self
                .progress
                .still(&format!("waiting for {}: {}", target.place(), spoken(other))),
        }
        Ok(())
    }

    /// The budget is put back by the next look, and the failure reported then.
    fn remove_failed(&mut self, target: &Pod, own: &mut Own) -> Result<(), Failure> {
        let failure = own.failure.take();
        self.remove_target(target)?;
        own.failure = failure;
        Ok(())
    }
}

/// Options that are `hawser migrate`'s own.
fn passed_on(args: &MigrateArgs) -> Vec<String> {
    let options = [
        ("--timeout", &args.timeout),
        ("--downtime", &args.downtime),
        ("--max-downtime", &args.max_downtime),
    ];
    let given = options
        .into_iter()
        .filter_map(|(option, value)| Some(format!("{option}={}", value.as_ref()?)));
    given.collect()
}

fn spoken(launcher: &Launcher) -> String {
    match launcher {
        Launcher::Gone => "its pod is gone".to_owned(),
        Launcher::NotYet => "its container has not started".to_owned(),
        Launcher::Says(status) => format!("its launcher says: {}", status.state),
        Launcher::Ended(Some(code)) => format!("its launcher has ended with exit code {code}"),
        Launcher::Ended(None) => "its launcher has ended".to_owned(),
        Launcher::Unknown(why) => format!("its launcher does not answer: {why}"),
    }
}

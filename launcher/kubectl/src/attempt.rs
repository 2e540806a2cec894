//! What `migrate` and `cancel` have in common: they look, ask, wait, settle and remove; and wait for an answer for as long as they are
//! told to.

use std::thread;
use std::time::{Duration, Instant};

use hawser_kubernetes::GUEST;

use crate::budget;
use crate::cli::PaceArgs;
use crate::failure::Failure;
use crate::kubectl::{Error, Kubectl};
use crate::launcher::Launcher;
use crate::pod::{Phase, Pod};
use crate::progress::Progress;
use crate::scene::Scene;
use crate::steps;
use crate::verdict::{Verdict, verdict};

/// For a target that has the guest to be ready, before its source is removed nevertheless: the guest may never be.
const READY: Duration = Duration::from_secs(60);

/// Of the two pods of a migration.
pub(crate) struct Launchers {
    pub(crate) source: Launcher,
    pub(crate) target: Launcher,
}

/// One call of a verb, with the patience that it has.
pub(crate) struct Attempt<'a> {
    pub(crate) kubectl: &'a Kubectl,
    pub(crate) guest: &'a str,
    pace: &'a PaceArgs,
    pub(crate) progress: Progress,
    /// Since when nobody answers.
    silent: Option<Instant>,
    has_looked: bool,
    /// Since when a target that has the guest is waited for to be ready.
    unready: Option<Instant>,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(kubectl: &'a Kubectl, guest: &'a str, pace: &'a PaceArgs) -> Self {
        Self {
            kubectl,
            guest,
            pace,
            progress: Progress::new(),
            silent: None,
            has_looked: false,
            unready: None,
        }
    }

    pub(crate) fn pause(&self) {
        thread::sleep(self.pace.interval);
    }

    /// The guest's pods; nothing where the API server does not answer for now. The first time it has to.
    pub(crate) fn look(&mut self) -> Result<Option<Scene>, Failure> {
        match Scene::look(self.kubectl, self.guest) {
            Ok(scene) => {
                self.has_looked = true;
                Ok(Some(scene))
            }
            Err(error) if self.has_looked => {
                self.wait_for_word(&error.to_string())?;
                self.pause();
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Says who does not answer, and ends when that lasts for too long.
    pub(crate) fn wait_for_word(&mut self, why: &str) -> Result<(), Failure> {
        let since = *self.silent.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.pace.give_up {
            return Err(Failure::Unknown(format!(
                "it is not known what became of the guest {}: {why}; run the same again",
                self.guest
            )));
        }
        self.progress.still(&format!("waiting: {why}"));
        Ok(())
    }

    /// Whether a step has failed that is to be tried again.
    pub(crate) fn failed(&mut self, step: Result<(), Error>) -> Result<bool, Failure> {
        match step {
            Ok(()) => Ok(false),
            Err(error) => {
                self.wait_for_word(&error.to_string())?;
                self.pause();
                Ok(true)
            }
        }
    }

    /// What both launchers say: the source's first, so that what has ended there has ended before the target answered.
    pub(crate) fn ask(&mut self, source: Option<&Pod>, target: &Pod) -> (Launchers, Verdict) {
        let launchers = Launchers {
            source: source.map_or(Launcher::Gone, |source| Launcher::of(self.kubectl, source)),
            target: Launcher::of(self.kubectl, target),
        };
        let verdict = verdict(&launchers.source, &launchers.target);
        if !matches!(verdict, Verdict::Open(_)) {
            self.silent = None;
        }
        (launchers, verdict)
    }

    pub(crate) fn follow(&mut self, launchers: &Launchers) {
        if let Some(migration) = launchers.source.says().and_then(|status| status.leaving()) {
            self.progress.heartbeat(migration);
        }
    }

    pub(crate) fn settle(&mut self, target: &Pod) -> Result<(), Failure> {
        let step = steps::settle(self.kubectl, target);
        if !self.failed(step)? {
            self.progress
                .say(&format!("the guest runs in {}", target.place()));
        }
        Ok(())
    }

    /// The end of the log of a target that has ended: it goes with the pod.
    pub(crate) fn last_words(&mut self, target: &Pod) {
        if !matches!(target.phase, Phase::Ended(_)) {
            return;
        }
        let log = self
            .kubectl
            .ask(&["logs", &target.name, "--container", GUEST, "--tail", "10"]);
        if let Ok(log) = log
            && !log.trim().is_empty()
        {
            self.progress
                .say(&format!("the end of the target's log:\n{}", log.trim_end()));
        }
    }

    pub(crate) fn remove_target(&mut self, target: &Pod) -> Result<(), Failure> {
        self.remove(target, "the target")
    }

    /// Not before the target is ready: in between a Service would lead nowhere.
    pub(crate) fn remove_source(&mut self, source: &Pod, target: &Pod) -> Result<(), Failure> {
        let unready = self.unready.get_or_insert_with(Instant::now).elapsed();
        let has_ended = matches!(target.phase, Phase::Ended(_));
        if !target.is_ready() && !has_ended && unready < READY {
            self.progress
                .still(&format!("waiting until {} is ready", target.place()));
            self.pause();
            return Ok(());
        }
        if !target.is_ready() && !has_ended {
            self.progress.say(&format!(
                "{} is not ready; its guest is there, and the source is removed",
                target.place()
            ));
        }
        self.remove(source, "the source")
    }

    /// Removes a pod, and waits until it is gone.
    pub(crate) fn remove(&mut self, pod: &Pod, what: &str) -> Result<(), Failure> {
        let mut is_asked = pod.leaves;
        let since = Instant::now();
        loop {
            if !is_asked {
                match steps::remove(self.kubectl, pod) {
                    Ok(()) => is_asked = true,
                    Err(error) => self.wait_for_word(&error.to_string())?,
                }
            }
            let Some(scene) = self.look()? else { continue };
            if scene.pods.iter().all(|one| one.uid != pod.uid) {
                self.silent = None;
                return Ok(());
            }
            if since.elapsed() >= self.pace.give_up {
                return Err(Failure::Unknown(format!(
                    "{what}, {}, is not gone after {}; run the same again",
                    pod.place(),
                    humantime::format_duration(self.pace.give_up)
                )));
            }
            self.progress
                .still(&format!("waiting until {what}, {}, is gone", pod.place()));
            self.pause();
        }
    }

    pub(crate) fn lower(&mut self) -> Result<(), Failure> {
        loop {
            let step = budget::lower(self.kubectl, self.guest);
            if !self.failed(step)? {
                return Ok(());
            }
        }
    }
}

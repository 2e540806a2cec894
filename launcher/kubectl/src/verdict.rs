//! What became of a guest that is to migrate, by what both launchers say. Pure.
//!
//! The source is to be asked before the target: what has ended there has ended before the target answered. kubectl's exit code is no
//! input.

use crate::launcher::{Launcher, Status};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It runs at the target.
    Migrated,
    /// It runs at the source, and no migration is under way. With the reason, if one has failed.
    Stays(Option<String>),
    /// The hand-off goes on, with or without somebody who watches.
    UnderWay,
    /// It has ended at the source, and the target has not had it; or at both.
    Ended(String),
    /// Not to be told yet: a launcher does not answer, or one waits for the other.
    Open(String),
}

/// Of the launchers of these two pods.
pub(crate) fn verdict(source: &Launcher, target: &Launcher) -> Verdict {
    if target.says().is_some_and(has_received) {
        return Verdict::Migrated;
    }
    match source {
        Launcher::Says(status) => of_source(status, target),
        Launcher::Ended(_) | Launcher::Gone => without_source(source, target),
        Launcher::NotYet => Verdict::Open("the source's container has not started".to_owned()),
        Launcher::Unknown(why) => Verdict::Open(format!("the source's launcher cannot be asked: {why}")),
    }
}

/// Whether the guest is this target's.
fn has_received(status: &Status) -> bool {
    let arrived = status
        .migration
        .as_ref()
        .is_some_and(|migration| !migration.is_out() && migration.step == "migrated");
    // Where its guest has gone on from here since, it is no target any more.
    status.has_guest() || (arrived && status.state == "stopping")
}

fn of_source(source: &Status, target: &Launcher) -> Verdict {
    if source.leaving().is_some() {
        return Verdict::UnderWay;
    }
    if source.has_guest() {
        let last = source.migration.as_ref().filter(|migration| migration.is_out());
        return Verdict::Stays(last.and_then(|migration| migration.why.clone()));
    }
    match target {
        Launcher::Ended(_) | Launcher::Gone if source.state == "handed-over" => Verdict::Ended(
            "the source has committed the guest, and the target has ended: its log says what became of it"
                .to_owned(),
        ),
        _ => Verdict::Open(format!("the source's launcher says: {}", source.state)),
    }
}

fn without_source(source: &Launcher, target: &Launcher) -> Verdict {
    let code = match source {
        Launcher::Ended(Some(code)) => format!("the source's launcher has ended with exit code {code}"),
        Launcher::Ended(None) => "the source's launcher has ended".to_owned(),
        _ => "the source's pod is gone".to_owned(),
    };
    match target {
        // Nobody has come to it, and nobody is left to come.
        Launcher::Says(status) if waits(status) => {
            Verdict::Ended(format!("{code}, and no guest has come to the target"))
        }
        // It waits for the source to repeat its commit, and ends by itself if that does not come.
        Launcher::Says(status) => Verdict::Open(format!("{code}; the target's says: {}", status.state)),
        Launcher::Ended(Some(at_target)) => {
            Verdict::Ended(format!("{code}, and the target's with exit code {at_target}"))
        }
        Launcher::Ended(None) | Launcher::Gone | Launcher::NotYet => Verdict::Ended(code),
        Launcher::Unknown(why) => Verdict::Open(format!("{code}; the target's cannot be asked: {why}")),
    }
}

/// Whether a target waits for a guest that nobody has begun to send.
pub(crate) fn waits(target: &Status) -> bool {
    target.state == "receiving"
        && target
            .migration
            .as_ref()
            .is_none_or(|migration| migration.step == "waiting")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launcher::{Identity, Migration};

    fn says(state: &str, migration: Option<(&str, &str)>) -> Launcher {
        Launcher::Says(Status {
            guest: Identity {
                namespace: "vms".to_owned(),
                name: "web".to_owned(),
            },
            state: state.to_owned(),
            migration: migration.map(|(direction, step)| Migration {
                direction: direction.to_owned(),
                address: String::new(),
                step: step.to_owned(),
                started: 0,
                sent: None,
                rounds: None,
                why: (step == "failed").then(|| "no room".to_owned()),
            }),
        })
    }

    fn all() -> Vec<Launcher> {
        let mut all = vec![
            Launcher::Gone,
            Launcher::NotYet,
            Launcher::Ended(None),
            Launcher::Ended(Some(0)),
            Launcher::Ended(Some(9)),
            Launcher::Unknown("cut".to_owned()),
        ];
        let steps = [
            None,
            Some(("out", "preparing")),
            Some(("out", "committed")),
            Some(("out", "failed")),
            Some(("out", "in-doubt")),
            Some(("out", "migrated")),
            Some(("in", "waiting")),
            Some(("in", "holding")),
            Some(("in", "migrated")),
            Some(("in", "failed")),
        ];
        for state in [
            "starting",
            "receiving",
            "running",
            "paused",
            "stopping",
            "migrated",
            "handed-over",
        ] {
            all.extend(steps.iter().map(|step| says(state, *step)));
        }
        all
    }

    #[test]
    fn the_target_is_believed_that_it_has_the_guest() {
        for source in all() {
            let running = says("running", Some(("in", "migrated")));
            assert_eq!(verdict(&source, &running), Verdict::Migrated, "{source:?}");
        }
    }

    /// Only a source that has the guest and no migration allows that its target is removed; whatever the target says.
    #[test]
    fn a_guest_stays_only_by_its_sources_own_word() {
        for source in all() {
            for target in all() {
                if let Verdict::Stays(_) = verdict(&source, &target) {
                    let status = source.says().unwrap();
                    assert!(
                        status.has_guest() && status.leaving().is_none(),
                        "{source:?} {target:?}"
                    );
                }
            }
        }
    }

    /// Nobody removes a target that may have been committed the guest.
    #[test]
    fn a_target_that_may_have_the_guest_is_waited_for() {
        let holding = says("receiving", Some(("in", "holding")));
        for source in [
            Launcher::Ended(Some(0)),
            Launcher::Ended(Some(9)),
            Launcher::Gone,
            Launcher::Unknown("cut".to_owned()),
            says("handed-over", Some(("out", "in-doubt"))),
            says("migrated", Some(("out", "migrated"))),
        ] {
            assert!(
                matches!(verdict(&source, &holding), Verdict::Open(_)),
                "{source:?}"
            );
            let unknown = Launcher::Unknown("cut".to_owned());
            assert!(
                matches!(verdict(&source, &unknown), Verdict::Open(_)),
                "{source:?}"
            );
        }
        let committed = says("running", Some(("out", "committed")));
        assert_eq!(verdict(&committed, &holding), Verdict::UnderWay);
    }

    #[test]
    fn a_guest_that_has_ended_is_said_to_have() {
        let waiting = says("receiving", Some(("in", "waiting")));
        let ended = verdict(&Launcher::Ended(Some(0)), &waiting);
        assert_eq!(
            ended,
            Verdict::Ended(
                "the source's launcher has ended with exit code 0, and no guest has come to the target"
                    .to_owned()
            )
        );
        for target in [Launcher::Ended(Some(9)), Launcher::Gone, Launcher::NotYet] {
            assert!(matches!(
                verdict(&Launcher::Ended(Some(6)), &target),
                Verdict::Ended(_)
            ));
        }
        let doubt = says("handed-over", Some(("out", "in-doubt")));
        assert!(matches!(
            verdict(&doubt, &Launcher::Ended(Some(9))),
            Verdict::Ended(_)
        ));
    }

    #[test]
    fn why_it_stays_is_passed_on() {
        let failed = says("running", Some(("out", "failed")));
        assert_eq!(
            verdict(&failed, &Launcher::Ended(Some(9))),
            Verdict::Stays(Some("no room".to_owned()))
        );
    }
}

use proptest::prelude::*;

use super::*;
use crate::error::ExitCode;

fn run(start: Guest, events: impl IntoIterator<Item = Event>) -> (Guest, Vec<Action>) {
    let mut all = Vec::new();
    let state = events.into_iter().fold(start, |state, event| {
        let (next, actions) = state.on(event);
        all.extend(actions);
        next
    });
    (state, all)
}

fn count(actions: &[Action], wanted: &Action) -> usize {
    actions.iter().filter(|action| *action == wanted).count()
}

fn killed() -> Event {
    Event::VmmExited(VmmExit::Failure("signal 9".into()))
}

const SHUT_DOWN: Event = Event::VmmExited(VmmExit::Success);

#[test]
fn a_guest_that_shuts_down_by_itself() {
    let (state, actions) = run(Guest::Booting, [Event::Booted, SHUT_DOWN]);
    assert_eq!(state, Guest::Ended(Outcome::ShutDown));
    assert!(actions.is_empty());
}

#[test]
fn the_power_button_is_pressed_again_until_the_guest_obeys() {
    let events = [
        Event::Booted,
        Event::Stop,
        Event::PressDue,
        Event::Stop,
        SHUT_DOWN,
    ];
    let (state, actions) = run(Guest::Booting, events);
    assert_eq!(state, Guest::Ended(Outcome::ShutDown));
    assert_eq!(count(&actions, &Action::PressPowerButton), 2);
    assert_eq!(
        count(&actions, &Action::ArmGrace),
        1,
        "a second signal extends nothing"
    );
}

#[test]
fn a_guest_whose_end_is_its_reboot() {
    for before in [vec![Event::Booted], vec![Event::Booted, Event::Stop]] {
        let events = before
            .into_iter()
            .chain([Event::EndsAtReboot, Event::Rebooted, killed()]);
        let (state, actions) = run(Guest::Booting, events);
        assert_eq!(state, Guest::Ended(Outcome::ShutDown));
        assert_eq!(count(&actions, &Action::KillVmm), 1);
    }
    let migrating = [
        Event::Booted,
        Event::Migrate(CallId(1)),
        Event::EndsAtReboot,
        killed(),
    ];
    let (state, actions) = run(Guest::Booting, migrating);
    assert_eq!(state, Guest::Ended(Outcome::ShutDown), "{actions:?}");
}

#[test]
fn a_guest_that_does_not_power_off_is_killed() {
    let events = [Event::Booted, Event::Stop, Event::GraceOver, killed()];
    let (state, actions) = run(Guest::Booting, events);
    assert_eq!(state, Guest::Ended(Outcome::Killed));
    assert_eq!(actions.last(), Some(&Action::KillVmm));
    assert_eq!(Outcome::Killed.exit_code(), ExitCode::Killed);
}

#[test]
fn a_failure_while_starting_ends_it_and_one_while_running_does_not() {
    let failed = || Event::StartFailed("vm.boot".into());
    for (start, events) in [
        (Guest::Booting, vec![failed(), killed()]),
        (Guest::receiving(), vec![failed(), killed()]),
    ] {
        let (state, actions) = run(start, events);
        assert_eq!(
            state,
            Guest::Ended(Outcome::Failed("vm.boot".into())),
            "the cause, not the kill, is the outcome"
        );
        assert_eq!(actions, [Action::KillVmm]);
    }
    let (state, _) = run(Guest::Booting, [Event::Booted, failed()]);
    assert_eq!(state, Guest::Running { arrived: false });
}

#[test]
fn a_target_that_no_guest_came_to() {
    let (state, actions) = run(Guest::receiving(), [Event::Stop, killed()]);
    assert_eq!(state, Guest::Ended(Outcome::NeverStarted));
    assert_eq!(count(&actions, &Action::KillVmm), 1);
    let (state, _) = run(Guest::receiving(), [killed()]);
    assert_eq!(state, Guest::Ended(Outcome::NotReceived("signal 9".into())));
    assert_eq!(Outcome::NotReceived(String::new()).exit_code(), ExitCode::HandOff);
}

#[test]
fn a_call_is_judged_by_where_the_guest_is() {
    let refused = |guest: Guest, event: Event| match guest.on(event).1.as_slice() {
        [Action::Refuse(_, refusal)] => Some(*refusal),
        _ => None,
    };
    let call = CallId(7);
    let leaving = Guest::Running { arrived: false }.on(Event::Migrate(CallId(1))).0;
    for (guest, migrate, cancel) in [
        (
            Guest::Booting,
            Some(Refusal::NotRunning),
            Some(Refusal::NotMigrating),
        ),
        (
            Guest::receiving(),
            Some(Refusal::NotRunning),
            Some(Refusal::NotMigrating),
        ),
        (
            Guest::Running { arrived: false },
            None,
            Some(Refusal::NotMigrating),
        ),
        (
            Guest::Stopping { arrived: false },
            Some(Refusal::NotRunning),
            Some(Refusal::NotMigrating),
        ),
        (leaving, Some(Refusal::Migrating), None),
        (
            Guest::Killing(Outcome::Killed),
            Some(Refusal::NotRunning),
            Some(Refusal::NotMigrating),
        ),
    ] {
        assert_eq!(refused(guest.clone(), Event::Migrate(call)), migrate, "{guest:?}");
        assert_eq!(refused(guest.clone(), Event::Cancel(call)), cancel, "{guest:?}");
    }
}

/// The source asks again over a new channel where the first answer was lost.
#[test]
fn a_source_that_asks_again_is_answered_as_before() {
    let commit = || Event::Target(target::Event::Commit);
    let answer = |guest: Guest| guest.on(commit()).1;
    let running = [Action::Target(target::Action::SendRunning)];
    assert_eq!(answer(Guest::Running { arrived: true }), running);
    assert_eq!(answer(Guest::Stopping { arrived: true }), running);
    let moving_on = Guest::Running { arrived: true }.on(Event::Migrate(CallId(1))).0;
    assert_eq!(answer(moving_on), running);
    let lost = Guest::Killing(Outcome::LostHere("why".into()));
    assert_eq!(
        answer(lost),
        [Action::Target(target::Action::SendLost("why".into()))]
    );
}

#[test]
fn a_migration_is_not_cancelled_after_the_commit() {
    let (guest, _) = run(
        Guest::Running { arrived: false },
        [
            Event::Migrate(CallId(1)),
            Event::Source(source::Event::Described),
            Event::Source(source::Event::Connected),
            Event::Source(source::Event::Prepared),
            Event::Source(source::Event::Copied),
            Event::Source(source::Event::Detached),
        ],
    );
    assert_eq!(
        guest.clone().on(Event::Cancel(CallId(2))).1.last(),
        Some(&Action::Cancelling(CallId(2)))
    );
    let (guest, _) = run(
        guest,
        [
            Event::Source(source::Event::Holding),
            Event::Source(source::Event::Fenced { failed: false }),
        ],
    );
    assert_eq!(
        guest.on(Event::Cancel(CallId(2))).1,
        [Action::Refuse(CallId(2), Refusal::Committed)]
    );
}

fn event() -> impl Strategy<Value = Event> {
    let why = || "why".to_owned();
    let source = prop::sample::select(vec![
        source::Event::Described,
        source::Event::NotDescribed(why()),
        source::Event::Connected,
        source::Event::Prepared,
        source::Event::Copied,
        source::Event::Detached,
        source::Event::NotDetached(why()),
        source::Event::Attached,
        source::Event::Holding,
        source::Event::Fenced { failed: false },
        source::Event::Fenced { failed: true },
        source::Event::CannotFence(why()),
        source::Event::TransferFailed(why()),
        source::Event::TransferFinished,
        source::Event::Running,
        source::Event::Lost(why()),
        source::Event::ChannelLost(why()),
        source::Event::DoubtOver,
    ]);
    let target = prop::sample::select(vec![
        target::Event::Prepare { reasons: Vec::new() },
        target::Event::Listening,
        target::Event::Restored,
        target::Event::Commit,
        target::Event::Resumed,
        target::Event::VmmFailed(why()),
        target::Event::Abort(why()),
        target::Event::ChannelLost(why()),
        target::Event::HoldOver,
    ]);
    prop_oneof![
        4 => source.prop_map(Event::Source),
        4 => target.prop_map(Event::Target),
        1 => Just(Event::Booted),
        1 => Just(Event::StartFailed(why())),
        1 => Just(Event::Stop),
        1 => Just(Event::PressDue),
        1 => Just(Event::GraceOver),
        1 => Just(Event::Rebooted),
        1 => Just(Event::EndsAtReboot),
        1 => Just(SHUT_DOWN),
        1 => Just(killed()),
        2 => Just(Event::Migrate(CallId(0))),
        1 => Just(Event::Cancel(CallId(0))),
    ]
}

proptest! {
    #[test]
    fn whatever_comes_the_vmm_is_killed_once_at_most_and_every_call_is_answered_once(
        receives in any::<bool>(),
        events in prop::collection::vec(event(), 0..40),
    ) {
        let mut guest = if receives { Guest::receiving() } else { Guest::Booting };
        let (mut kills, mut calls, mut open) = (0, 0, std::collections::BTreeSet::new());
        let mut exited = false;
        for event in events {
            let event = match event {
                Event::Migrate(_) | Event::Cancel(_) => {
                    calls += 1;
                    open.insert(CallId(calls));
                    match event {
                        Event::Migrate(_) => Event::Migrate(CallId(calls)),
                        _ => Event::Cancel(CallId(calls)),
                    }
                }
                // A process ends once.
                Event::VmmExited(_) if std::mem::replace(&mut exited, true) => continue,
                event => event,
            };
            let before = guest.is_committed();
            let (next, actions) = guest.on(event.clone());
            guest = next;
            for action in &actions {
                match action {
                    Action::KillVmm => kills += 1,
                    Action::Finish(call, _) | Action::Refuse(call, _) | Action::Cancelling(call) => {
                        prop_assert!(open.remove(call), "answered twice or unasked: {:?}", action);
                    }
                    Action::PressPowerButton => prop_assert!(!before, "pressed in a guest that was given away"),
                    _ => {}
                }
            }
            prop_assert!(kills <= 1);
            prop_assert!(!before || guest.is_committed(), "taken back by {:?}", event);
        }
        match &guest {
            Guest::Leaving(_) => prop_assert!(open.len() <= 1),
            _ => prop_assert!(open.is_empty(), "{open:?} in {guest:?}"),
        }
        if exited {
            prop_assert!(
                matches!(guest, Guest::Ended(_)) || (matches!(guest, Guest::Leaving(_)) && guest.is_committed()),
                "{guest:?} with a VMM that has ended"
            );
        }
    }
}

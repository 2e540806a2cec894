//! Single orders of events that the walk through all of them does not name.

use super::{In, MIGRATE, Out, Src, Tgt, World};
use crate::guest::machine::{Action, Event, Guest, Outcome, VmmExit};
use crate::migration::{source, target};

/// Between the source's machine and the outer one: the end of a guest that was given away is not the source's to judge.
#[test]
fn a_vmm_that_ends_after_the_commit_says_nothing_of_the_guest() {
    let committed = |guest: Guest| {
        [
            Src::Described,
            Src::Connected,
            Src::Prepared,
            Src::Copied,
            Src::Detached,
            Src::Holding,
            Src::Fenced { failed: false },
        ]
        .into_iter()
        .fold(guest, |guest, event| guest.on(Event::Source(event)).0)
    };
    let leaving = Guest::Running { arrived: false }.on(Event::Migrate(MIGRATE)).0;
    let guest = committed(leaving);
    assert!(guest.is_committed());
    let (guest, actions) = guest.on(Event::VmmExited(VmmExit::Failure("signal 9".into())));
    assert!(guest.is_committed() && actions.is_empty(), "{actions:?}");
    // Nor does a stop, or the end of a grace period that began before.
    let (guest, actions) = guest.on(Event::Stop);
    assert!(actions.is_empty(), "{actions:?}");
    let (guest, actions) = guest.on(Event::GraceOver);
    assert!(actions.is_empty(), "{actions:?}");
    let (guest, actions) = guest.on(Event::Source(Src::Running));
    assert_eq!(
        guest,
        Guest::Ended(Outcome::Migrated),
        "the VMM has ended already"
    );
    assert_eq!(actions, [Action::Finish(MIGRATE, source::Ending::Migrated)]);
}

/// The target's VMM fails while it holds the guest, and the commit is on its way already.
#[test]
fn a_refusal_that_crosses_the_commit_leaves_the_guest_here() {
    let committed = || source::State::Committed { kept: true };
    let (_, said) = target::State::Holding { stop: false }.on(Tgt::VmmFailed(World::why()));
    assert_eq!(said, [In::SendGone(World::why())]);
    let (here, actions) = committed().on(Src::Gone(World::why()));
    assert_eq!(here, source::State::Cancelling { why: World::why() });
    assert_eq!(
        actions,
        [Out::CutTransfer, Out::Unfence, Out::SendAbort(World::why())]
    );
    assert!(!here.is_committed());
    // Nothing is left to come back to.
    let lost = source::State::Ended(source::Ending::LostThere { why: World::why() });
    let (ended, actions) = committed().on(Src::GuestEnded(World::why()));
    assert!(ended.is_committed() && actions.is_empty(), "{actions:?}");
    assert_eq!(ended.on(Src::Gone(World::why())).0, lost);
    // Or the target has run it.
    assert_eq!(committed().on(Src::Lost(World::why())).0, lost);
    assert_eq!(
        source::State::Committed { kept: false }
            .on(Src::Gone(World::why()))
            .0,
        lost
    );
}

/// What was asked of a guest that was the target's counts once it is here again.
#[test]
fn a_stop_after_the_commit_counts_if_the_guest_comes_back() {
    let mut guest = Guest::Running { arrived: false }.on(Event::Migrate(MIGRATE)).0;
    for event in [
        Event::Source(Src::Described),
        Event::Source(Src::Connected),
        Event::Source(Src::Prepared),
        Event::Source(Src::Copied),
        Event::Source(Src::Detached),
        Event::Source(Src::Holding),
        Event::Source(Src::Fenced { failed: false }),
        Event::Stop,
    ] {
        guest = guest.on(event).0;
    }
    assert!(guest.is_committed());
    let (guest, actions) = guest.on(Event::Source(Src::Gone(World::why())));
    assert!(
        actions.contains(&Action::ArmGrace) && actions.contains(&Action::PressPowerButton),
        "{actions:?}"
    );
    let (guest, _) = guest.on(Event::Source(Src::TransferFailed(World::why())));
    let (guest, _) = guest.on(Event::Source(Src::Attached));
    assert_eq!(guest, Guest::Stopping { arrived: false });
}

/// SIGTERM, then the target's VMM takes the guest all the same: its order was not held back. The grace period ends after that.
#[test]
fn a_grace_period_does_not_kill_a_guest_that_was_given_away() {
    let mut guest = Guest::Running { arrived: false }.on(Event::Migrate(MIGRATE)).0;
    for event in [
        Event::Source(Src::Described),
        Event::Source(Src::Connected),
        Event::Source(Src::Prepared),
        Event::Source(Src::Copied),
        Event::Source(Src::Detached),
        Event::Stop,
        Event::Source(Src::TransferFinished),
        Event::GraceOver,
        Event::PressDue,
    ] {
        guest = guest.on(event).0;
    }
    assert!(guest.is_committed());
    let (guest, _) = guest.on(Event::Source(Src::Running));
    assert_eq!(guest, Guest::Killing(Outcome::Migrated));
}

/// The relay does not let it happen. If a VMM of another make ran the guest without being told, one guest is left all
/// the same.
#[test]
fn an_order_that_slips_through_leaves_one_guest() {
    let sending = || source::State::Sending;
    let early = || target::State::Receiving.on(Tgt::Resumed);

    let (here, sent) = sending().on(Src::TransferFinished);
    assert_eq!(sent, [Out::Note, Out::SendCommit, Out::ArmDoubt]);
    let (there, waits) = early();
    assert_eq!(waits, [In::ArmHold]);
    let (there, sent) = there.on(Tgt::Commit);
    assert_eq!(sent, [In::SendRunning]);
    assert_eq!(there, target::State::Ended(target::Ending::Runs { stop: false }));
    assert_eq!(
        here.on(Src::Running).0,
        source::State::Ended(source::Ending::Migrated)
    );

    // The source's VMM did not hear it, and has the guest again.
    let (here, sent) = sending().on(Src::TransferFailed(World::why()));
    assert!(sent.contains(&Out::SendAbort(World::why())));
    assert_eq!(
        here.on(Src::Attached).0,
        source::State::Ended(source::Ending::StaysHere { why: World::why() })
    );
    let (there, sent) = early().0.on(Tgt::Abort(World::why()));
    assert!(sent.contains(&In::SendGone("".into())), "{sent:?}");
    assert!(matches!(there, target::State::Ended(target::Ending::Gone { .. })));

    // The source does not come back.
    assert!(matches!(
        early().0.on(Tgt::HoldOver).0,
        target::State::Ended(target::Ending::Gone { .. })
    ));
}

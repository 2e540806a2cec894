//! A guest that another launcher migrates here.

use super::{Action, Event, Guest, Next, Outcome, Receiving, Refusal, VmmExit, kill, leave, stop};
use crate::migration::target::{self, Ending as Came};

impl Receiving {
    pub(super) fn on(mut self, event: Event) -> Next {
        match event {
            Event::Target(event) => self.advance(event),
            Event::Stop => self.advance(target::Event::Stop),
            Event::VmmExited(exit) => {
                let why = match &exit {
                    VmmExit::Success => "cloud-hypervisor exited".to_owned(),
                    VmmExit::Failure(why) => why.clone(),
                };
                self.exit = Some(exit);
                self.advance(target::Event::VmmFailed(why))
            }
            // No source has been let in before everything is there.
            Event::StartFailed(why) if self.target == target::State::Waiting => kill(Outcome::Failed(why)),
            Event::Migrate(call) => (
                Guest::Receiving(self),
                vec![Action::Refuse(call, Refusal::NotRunning)],
            ),
            Event::Cancel(call) => (
                Guest::Receiving(self),
                vec![Action::Refuse(call, Refusal::NotMigrating)],
            ),
            Event::StartFailed(_)
            | Event::Booted
            | Event::Held
            | Event::PressDue
            | Event::GraceOver
            | Event::Rebooted
            | Event::EndsAtReboot
            | Event::Operate(..)
            | Event::Operated(..)
            | Event::Source(_) => (Guest::Receiving(self), vec![]),
        }
    }

    pub(super) fn advance(self, event: target::Event) -> Next {
        let (target, actions) = self.target.on(event);
        let mut actions: Vec<_> = actions.into_iter().map(Action::Target).collect();
        let (guest, more) = match target {
            target::State::Ended(Came::Runs { stop: wanted }) => {
                actions.push(Action::TakeOver);
                match wanted {
                    false => (Guest::Running { arrived: true }, vec![]),
                    true => (Guest::Stopping { arrived: true }, stop()),
                }
            }
            target::State::Ended(Came::Gone { why }) => leave(Outcome::NotReceived(why), self.exit),
            target::State::Ended(Came::Stopped) => leave(Outcome::NeverStarted, self.exit),
            target::State::Ended(Came::Lost { why }) => leave(Outcome::LostHere(why), self.exit),
            target => (Guest::Receiving(Self { target, ..self }), vec![]),
        };
        actions.extend(more);
        (guest, actions)
    }
}

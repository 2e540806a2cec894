//! What an operator can have done to the guest, each with a verb of the command line and a route of its own.

/// One of them. docs/operate.md says what each does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Pause,
    Resume,
    Reset,
    Stop,
    Nmi,
}

impl Verb {
    /// As it is typed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reset => "reset",
            Self::Stop => "stop",
            Self::Nmi => "nmi",
        }
    }

    /// What was done.
    pub(crate) fn done(self) -> &'static str {
        match self {
            Self::Pause => "the guest is paused",
            Self::Resume => "the guest runs again",
            Self::Reset => "the guest was reset, and boots again",
            Self::Stop => "the guest's power button is being pressed until it has powered off",
            Self::Nmi => "the guest was sent an NMI",
        }
    }
}

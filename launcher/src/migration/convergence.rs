//! Whether the rounds over a guest's memory come to an end, and what is done if they do not. Pure: rounds in, steps out.
//!
//! cloud-hypervisor sends round after round until it can send the rest within `--downtime`. A guest that writes as fast as it is
//! sent never gets there: each round is as large as the one before. Then, in this order and each only if the operator allowed it:
//!
//! 1. the guest is slowed down, more with each round that is no smaller (`--auto-converge`; the steps are QEMU's, as KubeVirt has
//!    it use them);
//! 2. the downtime that is allowed is doubled with each round that is no smaller, until three quarters of `--max-downtime`: the
//!    rest of it is for the guest's state and the hand-off;
//! 3. if no round has been smaller for `--progress-timeout`, or at `--timeout`: the guest stays, or is paused however long the rest
//!    takes (`--on-timeout`), if that is within `--max-downtime`.
//!
//! How long the guest would be paused is taken from the last round: the next one is about as large, and takes about as long.

use std::time::Duration;

use crate::control::OnTimeout;

/// A round that is not at least a twentieth smaller than the smallest before it is no smaller.
const SMALLER: (u64, u64) = (19, 20);
/// So many in a row before anything is done about it.
const PATIENCE: u32 = 3;
/// Percent of the time for which a guest is stopped at first, and how much more with each step.
const SLOWED_FIRST: u32 = 20;
const SLOWED_STEP: u32 = 10;
const SLOWED_MOST: u32 = 99;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) downtime: Duration,
    /// As the operator gave it; without it nothing but `downtime` is allowed.
    pub(super) max_downtime: Option<Duration>,
    /// After that the guest is resumed at the source, whoever paused it and why.
    pub(super) cap: Duration,
    pub(super) timeout: Duration,
    pub(super) progress_timeout: Duration,
    pub(super) on_timeout: OnTimeout,
    pub(super) auto_converge: bool,
}

/// One round that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Round {
    pub(super) number: u64,
    pub(super) bytes: u64,
    pub(super) took: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    GoOn,
    /// Have the vCPUs stand still for so many percent of the time.
    Slow(u32),
    /// Have them stand still: what is left takes as long as may be.
    Hold,
    /// The guest stays, and why.
    GiveUp(String),
}

#[derive(Debug)]
pub(super) struct Convergence {
    limits: Limits,
    /// The downtime that is allowed by now.
    allowed: Duration,
    slowed: u32,
    /// Of a round after the first.
    smallest: Option<u64>,
    /// Rounds in a row that were no smaller.
    stalled: u32,
    /// When the last one was that was, or that something was done; since the transfer began.
    progress: Duration,
    last: Option<Round>,
    /// The last word has been said.
    over: bool,
}

impl Convergence {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            allowed: limits.downtime,
            limits,
            slowed: 0,
            smallest: None,
            stalled: 0,
            progress: Duration::ZERO,
            last: None,
            over: false,
        }
    }

    /// A round has ended, so long after the transfer began.
    pub(super) fn round(&mut self, round: Round, at: Duration) -> Step {
        self.last = Some(round);
        if self.over {
            return Step::GoOn;
        }
        // The first one has all of the memory.
        if round.number == 0 {
            self.progress = at;
            return Step::GoOn;
        }
        let smaller = self
            .smallest
            .is_none_or(|smallest| round.bytes < smallest / SMALLER.1 * SMALLER.0);
        if smaller {
            self.smallest = Some(round.bytes);
            self.stalled = 0;
            self.progress = at;
        } else {
            self.stalled = self.stalled.saturating_add(1);
        }
        let step = match self.stalled {
            PATIENCE.. => self.help(at),
            _ => Step::GoOn,
        };
        if step != Step::GoOn {
            return step;
        }
        // With no more than --downtime, cloud-hypervisor does it itself.
        if self.allowed > self.limits.downtime && round.took <= self.allowed {
            self.over = true;
            return Step::Hold;
        }
        if at.saturating_sub(self.progress) >= self.limits.progress_timeout {
            let since = text(self.limits.progress_timeout);
            let step = self.last_step(&format!("for {since} (--progress-timeout)"));
            self.over = true;
            return step;
        }
        Step::GoOn
    }

    /// The time for the rounds is over. cloud-hypervisor knows it too, and pauses the guest after the next round if it may.
    pub(super) fn time_over(&mut self) -> Step {
        if self.over {
            return Step::GoOn;
        }
        self.over = true;
        let within = text(self.limits.timeout);
        match self.last_step(&format!("within {within} (--timeout)")) {
            Step::Hold => Step::GoOn,
            step => step,
        }
    }

    /// The vCPUs cannot be stopped: what remains are the times.
    pub(super) fn cannot_stop(&mut self) {
        self.limits.auto_converge = false;
        self.limits.max_downtime = None;
        self.allowed = self.limits.downtime;
        self.slowed = 0;
        self.over = false;
    }

    /// What the operator allows to be done for rounds that do not shrink.
    fn help(&mut self, at: Duration) -> Step {
        if self.limits.auto_converge && self.slowed < SLOWED_MOST {
            self.slowed = match self.slowed {
                0 => SLOWED_FIRST,
                slowed => slowed.saturating_add(SLOWED_STEP).min(SLOWED_MOST),
            };
            // The next round is still one of before.
            self.stalled = PATIENCE.saturating_sub(2);
            self.progress = at;
            return Step::Slow(self.slowed);
        }
        let most = self.most();
        if self.allowed < most {
            self.allowed = self.allowed.saturating_mul(2).min(most);
            self.progress = at;
        }
        Step::GoOn
    }

    /// The most that is ever allowed for the memory.
    fn most(&self) -> Duration {
        let most = self
            .limits
            .max_downtime
            .map_or(Duration::ZERO, |most| most * 3 / 4);
        most.max(self.limits.downtime)
    }

    fn last_step(&self, when: &str) -> Step {
        let Some(round) = self.last else {
            return Step::GiveUp(format!(
                "the first round over the guest's memory was not over {when}"
            ));
        };
        let rate = rate(round);
        let said = format!(
            "the guest writes its memory too fast: round {} was {} at {rate} and took {} ms, and a pause of {} ms is allowed; this did \
             not change {when}",
            round.number,
            size(round.bytes),
            round.took.as_millis(),
            self.allowed.as_millis()
        );
        let expected = round.took;
        match self.limits.on_timeout {
            OnTimeout::Pause if expected <= self.limits.cap => Step::Hold,
            OnTimeout::Pause => Step::GiveUp(format!(
                "{said}, and --on-timeout pause would pause the guest for longer than {} (--max-downtime)",
                text(self.limits.cap)
            )),
            OnTimeout::Cancel => Step::GiveUp(format!("{said}; {}", self.advice(expected))),
        }
    }

    fn advice(&self, expected: Duration) -> String {
        // Whole seconds, with a quarter for the hand-off and one for a round that is larger.
        let enough = Duration::from_secs((expected * 3 / 2).as_secs().saturating_add(1));
        let slower = match self.limits.auto_converge {
            true => "",
            false => ", as may --auto-converge, which slows the guest down",
        };
        format!(
            "--max-downtime {} lets it migrate{slower}, or --on-timeout pause, which pauses it for as long as it takes",
            text(enough)
        )
    }

    /// What is said of the round.
    pub(super) fn describe(&self, round: Round) -> String {
        let Round { number, bytes, took } = round;
        let slowed = match self.slowed {
            0 => String::new(),
            slowed => format!("; the guest is slowed down by {slowed}%"),
        };
        format!(
            "round {number} over the guest's memory: {} at {}, in {} ms; a pause of {} ms is allowed{slowed}",
            size(bytes),
            rate(round),
            took.as_millis(),
            self.allowed.as_millis()
        )
    }
}

fn size(bytes: u64) -> String {
    match bytes >> 20 {
        0..10 => format!("{} KiB", bytes >> 10),
        more => format!("{more} MiB"),
    }
}

fn rate(round: Round) -> String {
    let milliseconds = u64::try_from(round.took.as_millis()).unwrap_or(u64::MAX).max(1);
    format!("{}/s", size(round.bytes.saturating_mul(1000) / milliseconds))
}

fn text(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            downtime: Duration::from_millis(300),
            max_downtime: None,
            cap: Duration::from_secs(20),
            timeout: Duration::from_secs(150),
            progress_timeout: Duration::from_secs(150),
            on_timeout: OnTimeout::Cancel,
            auto_converge: false,
        }
    }

    /// Rounds of a guest that writes all of `bytes` during each, until there is something to do other than to slow it down.
    fn endless(limits: Limits, mut took: impl FnMut(u32) -> Duration) -> (u64, Duration, Step, Convergence) {
        let mut convergence = Convergence::new(limits);
        let (mut at, mut slowed) = (Duration::ZERO, 0);
        for number in 0..10_000 {
            let took = took(slowed);
            at += took;
            let bytes = u64::try_from(took.as_millis()).unwrap() << 15;
            match convergence.round(Round { number, bytes, took }, at) {
                Step::GoOn => {}
                Step::Slow(percent) => slowed = percent,
                step => return (number, at, step, convergence),
            }
        }
        panic!("rounds without end")
    }

    const TWO: Duration = Duration::from_secs(2);

    #[test]
    fn without_options_it_ends_with_the_numbers() {
        let (_, at, step, _) = endless(limits(), |_| TWO);
        assert!(at <= Duration::from_secs(160), "{at:?}");
        let Step::GiveUp(why) = step else {
            panic!("{step:?}")
        };
        insta::assert_snapshot!(why, @"the guest writes its memory too fast: round 76 was 62 MiB at 31 MiB/s and took 2000 ms, and a pause of 300 ms is allowed; this did not change for 2m 30s (--progress-timeout); --max-downtime 4s lets it migrate, as may --auto-converge, which slows the guest down, or --on-timeout pause, which pauses it for as long as it takes");
    }

    #[test]
    fn more_downtime_is_allowed_step_by_step_up_to_three_quarters() {
        let with = |max: u64| Limits {
            max_downtime: Some(Duration::from_secs(max)),
            cap: Duration::from_secs(max),
            ..limits()
        };
        // Rounds 1 to 3 say that they do not shrink; 600 ms, 1200 ms, 2400 ms are allowed after 4, 5 and 6.
        let (number, _, step, _) = endless(with(5), |_| TWO);
        assert_eq!((number, step), (6, Step::Hold));
        // Three quarters of two seconds are less than two.
        let (_, _, step, convergence) = endless(with(2), |_| TWO);
        assert!(matches!(step, Step::GiveUp(_)));
        assert_eq!(convergence.allowed, Duration::from_millis(1500));
        // One that is shorter than --downtime takes nothing away from it.
        let (_, _, _, convergence) = endless(
            Limits {
                max_downtime: Some(Duration::from_millis(100)),
                ..limits()
            },
            |_| TWO,
        );
        assert_eq!(convergence.allowed, Duration::from_millis(300));
    }

    #[test]
    fn a_guest_is_slowed_down_first() {
        let with = Limits {
            auto_converge: true,
            max_downtime: Some(Duration::from_secs(5)),
            ..limits()
        };
        let mut steps = Vec::new();
        let (_, _, step, _) = endless(with, |slowed| {
            if steps.last() != Some(&slowed) {
                steps.push(slowed);
            }
            TWO
        });
        assert_eq!(steps, [0, 20, 30, 40, 50, 60, 70, 80, 90, 99]);
        assert_eq!(step, Step::Hold);
    }

    #[test]
    fn one_that_shrinks_is_left_alone() {
        let mut convergence = Convergence::new(limits());
        for number in 0..20_u64 {
            let bytes = (1 << 30) >> number;
            let took = Duration::from_secs(10);
            let at = took * u32::try_from(number).unwrap();
            assert_eq!(convergence.round(Round { number, bytes, took }, at), Step::GoOn);
        }
    }

    #[test]
    fn a_pause_on_timeout_has_its_limit_too() {
        let with = Limits {
            on_timeout: OnTimeout::Pause,
            ..limits()
        };
        assert_eq!(endless(with, |_| TWO).2, Step::Hold);
        let (_, _, step, _) = endless(with, |_| Duration::from_secs(30));
        let Step::GiveUp(why) = step else {
            panic!("{step:?}")
        };
        assert!(why.ends_with("for longer than 20s (--max-downtime)"), "{why}");
        // At --timeout cloud-hypervisor pauses it itself.
        let mut convergence = Convergence::new(with);
        let round = Round {
            number: 1,
            bytes: 1 << 20,
            took: TWO,
        };
        convergence.round(round, TWO);
        assert_eq!(convergence.time_over(), Step::GoOn);
    }

    #[test]
    fn what_cannot_be_stopped_is_given_up_in_time() {
        let with = Limits {
            max_downtime: Some(Duration::from_secs(5)),
            auto_converge: true,
            ..limits()
        };
        let (_, _, step, mut convergence) = endless(with, |_| TWO);
        assert_eq!(step, Step::Hold);
        assert_eq!(convergence.time_over(), Step::GoOn, "it is about to end");
        convergence.cannot_stop();
        let round = Round {
            number: 100,
            bytes: 1 << 26,
            took: TWO,
        };
        assert_eq!(convergence.round(round, TWO * 50), Step::GoOn);
        assert!(matches!(convergence.time_over(), Step::GiveUp(_)));
    }

    #[test]
    fn the_time_may_be_over_before_the_first_round() {
        let mut convergence = Convergence::new(limits());
        let Step::GiveUp(why) = convergence.time_over() else {
            panic!("it goes on")
        };
        insta::assert_snapshot!(why, @"the first round over the guest's memory was not over within 2m 30s (--timeout)");
        assert_eq!(convergence.time_over(), Step::GoOn, "once");
    }

    #[test]
    fn a_round_is_described_by_its_numbers() {
        let convergence = Convergence::new(limits());
        let round = Round {
            number: 7,
            bytes: 38 << 20,
            took: Duration::from_millis(317),
        };
        insta::assert_snapshot!(convergence.describe(round), @"round 7 over the guest's memory: 38 MiB at 119 MiB/s, in 317 ms; a pause of 300 ms is allowed");
    }
}

//! A guest that writes its memory without pause, faster than it is sent.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::lifecycle::END;
use super::masquerade::wait_for_both_families;
use super::migration::{TLS, TRANSFER, at_home_in, expect_state, status, two_pods, url, wait_for_it};
use crate::lab::events::Event;
use crate::lab::node::Lab;
use crate::lab::node::guest;
use crate::lab::node::pace;
use crate::lab::node::pod::{Launcher, Pod, ROOT};

/// 32 MiB, again and again.
const DIRTY: &str = "(while [ -e /tmp/dirty ]; do dd if=/dev/zero of=/tmp/dirt bs=1M count=32 conv=notrunc; done) > /dev/null 2>&1 &";
/// So short that what is written meanwhile is never sent in it.
const DOWNTIME: &str = "20ms";
/// For the first round and a few of what is written.
const ROUNDS: Duration = Duration::from_secs(60);
const MAX_DOWNTIME: Duration = Duration::from_secs(5);
const TOO_FAST: &str = "the guest writes its memory too fast: round ";

fn text(time: Duration) -> String {
    format!("{}s", pace::allowed(time).as_secs())
}

/// `hawser migrate` with these options; the last lines that it printed.
fn migrate(source: &Launcher<'_>, target: &Pod<'_>, options: &[&str], code: i32) -> Result<String> {
    let to = url(target);
    let words = ["hawser", "migrate", "--to", &to, "--downtime", DOWNTIME];
    let words: Vec<_> = words.iter().chain(&TLS).chain(options).copied().collect();
    let mut moving = source.exec(&words)?;
    moving.expect_exit(code, TRANSFER)?;
    Ok(moving.console.last(8))
}

fn restless(pod: &Pod<'_>) -> Result<()> {
    guest::execute(pod.ipv4.into(), &format!("touch /tmp/dirty; {DIRTY}")).map(drop)
}

/// The figure before this unit in the last line.
fn downtime(said: &str) -> Result<Duration> {
    let (_, rest) = said
        .rsplit_once("with a downtime of ")
        .with_context(|| said.to_owned())?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Ok(Duration::from_millis(digits.parse()?))
}

fn tell(lab: &Lab, what: &str, said: &str) {
    for line in said.split(" | ") {
        lab.tell(&Event::Line {
            text: format!("{what}: {line}"),
        });
    }
}

fn arrived(source: &mut Launcher<'_>, to: &Pod<'_>, target: &Launcher<'_>) -> Result<()> {
    source.expect_exit(0, END)?;
    guest::execute(to.ipv4.into(), "rm /tmp/dirty")?;
    at_home_in(to).context("at the target")?;
    expect_state(&status(target)?, "running")
}

/// The guest stays, and hawser says which numbers stand against it; with --max-downtime, the same guest migrates.
pub(super) fn given_up_and_allowed_more(lab: &Lab) -> Result<()> {
    let (from, to) = two_pods(lab, "restless")?;
    let mut source = from.launch("run", ROOT)?;
    wait_for_both_families(&source)?;
    restless(&from)?;
    let mut target = wait_for_it(&to, &TLS)?;
    let said = migrate(&source, &to, &["--timeout", &text(ROUNDS)], 9)?;
    tell(lab, "without options", &said);
    for part in [TOO_FAST, "(--timeout)", "--max-downtime ", " lets it migrate"] {
        ensure!(said.contains(part), "no {part:?} in {said}");
    }
    ensure!(target.exit_code(END)? == 9, "the target's exit code");
    guest::execute(from.ipv4.into(), "[ -e /tmp/dirty ]").context("the guest at the source")?;

    let target = wait_for_it(&to, &TLS)?;
    let most = pace::allowed(MAX_DOWNTIME);
    let options = [
        "--timeout",
        &text(TRANSFER),
        "--max-downtime",
        &text(MAX_DOWNTIME),
    ];
    let said = migrate(&source, &to, &options, 0)?;
    tell(lab, "--max-downtime", &said);
    ensure!(said.contains("the guest's vCPUs are stopped"), "{said}");
    let paused = downtime(&said)?;
    ensure!(paused <= most, "paused for {paused:?}, and {most:?} were allowed");
    arrived(&mut source, &to, &target)
}

/// The rounds are over when the time is, and the guest is paused for the last one.
pub(super) fn paused(lab: &Lab) -> Result<()> {
    let (from, to) = two_pods(lab, "paused")?;
    let mut source = from.launch("run", ROOT)?;
    wait_for_both_families(&source)?;
    restless(&from)?;
    let target = wait_for_it(&to, &TLS)?;
    let options = ["--timeout", &text(ROUNDS / 2), "--on-timeout", "pause"];
    let said = migrate(&source, &to, &options, 0)?;
    tell(lab, "--on-timeout pause", &said);
    ensure!(!said.contains("vCPUs are stopped"), "{said}");
    downtime(&said)?;
    arrived(&mut source, &to, &target)
}

/// A guest that is slowed down writes less, and the rounds get short enough by themselves.
pub(super) fn slowed_down(lab: &Lab) -> Result<()> {
    let (from, to) = two_pods(lab, "slowed")?;
    let mut source = from.launch("run", ROOT)?;
    wait_for_both_families(&source)?;
    restless(&from)?;
    let target = wait_for_it(&to, &TLS)?;
    let said = migrate(
        &source,
        &to,
        &["--timeout", &text(TRANSFER), "--auto-converge"],
        0,
    )?;
    tell(lab, "--auto-converge", &said);
    ensure!(said.contains("the guest is slowed down by "), "{said}");
    downtime(&said)?;
    arrived(&mut source, &to, &target)
}

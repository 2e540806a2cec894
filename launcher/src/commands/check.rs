//! `hawser check`: whether this pod is fit to run a guest, one line for each thing that was looked at.

use clap::Args;

use super::args::PodArgs;
use crate::error::{ExitCode, Failure};
use crate::pod::finding::Finding;
use crate::pod::landlock::Landlock;
use crate::survey::{Look, Survey};

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// With --vmi, hawser checks everything that `hawser run` would refuse to start this guest for.
    #[command(flatten)]
    pub pod: PodArgs,
}

/// Prints the findings. The exit code is the one that `hawser run` would end with.
pub(super) fn check(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let places = args.pod.places();
    let survey = Survey {
        places: &places,
        uid: args.pod.uid,
        look: Look::Check,
        certificates: None,
    };
    let findings = match args.pod.manifest.is_given() {
        true => survey.pod(args.pod.manifest.load()?.spec).findings(),
        false => survey.without_guest(),
    };
    let mut code = ExitCode::Success;
    for finding in findings.into_iter().chain(Landlock::of_kernel().finding()) {
        println!("{finding}");
        if let (Finding::Bad(failure), ExitCode::Success) = (&finding, code) {
            code = failure.code();
        }
    }
    Ok(code)
}

use std::fs;

use super::*;
use crate::test_program;

/// A stand-in for a virtiofsd that does not come to serve.
async fn failed(script: &str) -> String {
    let place = tempfile::tempdir().unwrap();
    let program = place.path().join("virtiofsd");
    test_program::write(&program, &format!("#!/bin/sh\n{script}\n"));
    let export = Export {
        name: "data".into(),
        directory: place.path().to_owned(),
        readonly: true,
    };
    let share = listen(place.path(), vec![export]).unwrap().remove(0);
    let (ready, serves) = oneshot::channel();
    supervise(program, share, ready).await;
    let failure = serves.await.unwrap().unwrap_err();
    assert_eq!(failure.code(), ExitCode::PodUnfit);
    failure.to_string()
}

#[tokio::test(flavor = "current_thread")]
async fn one_that_ends_before_it_serves_is_reported_in_its_own_words() {
    let text = failed("echo 'no such thing' >&2; exit 3").await;
    for expected in ["file system data", "exit status: 3", "it said: no such thing"] {
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn nothing_of_the_manifest_is_an_argument_but_the_directory() {
    let text = failed("echo \"$@\" | sed 's/fd=[0-9]*/fd=N/; s/dir=[^ ]*/dir=D/' >&2; exit 3").await;
    let expected = "it said: --fd=N --shared-dir=D --sandbox=none --log-level=error --readonly";
    assert!(text.contains(expected), "{text}");
}

/// What a process that is confined as virtiofsd is makes of a file: cat's own verdict.
fn reads(program: &Path, directory: &Path, file: &Path) -> bool {
    let ruleset = may(program, directory, true).ruleset().unwrap();
    let mut command = std::process::Command::new(program);
    command.arg(file).stdout(Stdio::null()).stderr(Stdio::null());
    // Of this test's thread and its children; landlock asks for it.
    nix::sys::prctl::set_no_new_privs().unwrap();
    BeforeExec::new().landlock(ruleset).apply(&mut command);
    command.status().unwrap().success()
}

#[test]
fn a_confined_process_opens_nothing_outside_its_directory() {
    let cat = fs::canonicalize("/bin/cat").unwrap();
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for place in [&ours, &theirs] {
        fs::write(place.path().join("file"), "x").unwrap();
    }
    let link = ours.path().join("link");
    std::os::unix::fs::symlink(theirs.path().join("file"), &link).unwrap();
    assert!(reads(&cat, ours.path(), &ours.path().join("file")));
    assert!(!reads(&cat, ours.path(), &theirs.path().join("file")));
    assert!(!reads(&cat, ours.path(), &link), "through a link of the guest's");
}

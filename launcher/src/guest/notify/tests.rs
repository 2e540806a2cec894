use tokio::io::AsyncWriteExt;

use super::*;

fn reported(messages: &[&str]) -> GuestBoot {
    let notified = Notified::new(None);
    for message in messages {
        notified.take(message.as_bytes());
    }
    notified.boot()
}

/// In the order in which systemd 257 sends them.
const BOOT: [&str; 5] = [
    "X_SYSTEMD_HOSTNAME=web",
    "X_SYSTEMD_UNIT_ACTIVE=sysinit.target",
    "X_SYSTEMD_UNIT_ACTIVE=ssh-access.target",
    "X_SYSTEMD_UNIT_ACTIVE=multi-user.target",
    "READY=1\nSTATUS=Ready.",
];

#[test]
fn a_guest_boots_shuts_down_and_boots_again() {
    assert_eq!(reported(&[]).state, BootState::NotReported);
    assert_eq!(reported(&BOOT[..3]).state, BootState::Booting);
    let booted = reported(&BOOT);
    assert_eq!(booted.state, BootState::Booted);
    assert_eq!(booted.hostname.as_deref(), Some("web"));
    assert_eq!(booted.status.as_deref(), Some("Ready."));
    assert_eq!(
        booted.targets,
        ["multi-user.target", "ssh-access.target", "sysinit.target"]
    );
    let notified = Notified::new(None);
    for message in BOOT {
        notified.take(message.as_bytes());
    }
    notified.take(b"X_SYSTEMD_UNIT_INACTIVE=multi-user.target");
    assert_eq!(notified.boot().state, BootState::Booted);
    notified.take(b"X_SYSTEMD_UNIT_ACTIVE=shutdown.target");
    assert_eq!(notified.boot().state, BootState::ShuttingDown);
    notified.take(b"EXIT_STATUS=0\nX_SYSTEMD_SHUTDOWN=kexec");
    assert_eq!(notified.boot().state, BootState::ShuttingDown);
    notified.take(b"READY=1");
    assert_eq!(notified.boot().state, BootState::Booted, "by kexec");
    notified.rebooted();
    let boot = notified.boot();
    assert_eq!((boot.state, boot.targets.len()), (BootState::NotReported, 0));
}

#[test]
fn emergency_mode_is_not_booted_although_systemd_is_ready() {
    let boot = reported(&["X_SYSTEMD_UNIT_ACTIVE=emergency.target", "READY=1"]);
    assert_eq!(boot.state, BootState::Emergency);
    let left = reported(&[
        "X_SYSTEMD_UNIT_ACTIVE=rescue.target",
        "READY=1",
        "X_SYSTEMD_UNIT_INACTIVE=rescue.target",
    ]);
    assert_eq!(left.state, BootState::Booted);
}

#[test]
fn what_is_no_message_changes_nothing_and_what_is_kept_has_a_bound() {
    for junk in ["", "READY", "READY=0", "FOO=1", "\u{0}\u{1}=\n=\n\n"] {
        let boot = GuestBoot {
            since: 0,
            ..reported(&[junk])
        };
        assert_eq!(boot, GuestBoot::default(), "{junk:?}");
    }
    let wanted = ReadyWhen::Target("wanted.target".to_owned());
    let notified = Notified::new(Some(&wanted));
    for number in 0..10_000 {
        notified.take(format!("X_SYSTEMD_UNIT_ACTIVE=t{number}.target").as_bytes());
    }
    notified.take(b"X_SYSTEMD_UNIT_ACTIVE=wanted.target");
    notified.take(format!("STATUS={}", "\u{1b}[2J".repeat(1000)).as_bytes());
    notified.take(b"X_SYSTEMD_HOSTNAME=a b\nX_SYSTEMD_UNIT_ACTIVE=\x1b[2J");
    let boot = notified.boot();
    assert!(boot.targets.len() <= MAX_TARGETS + 1, "{}", boot.targets.len());
    assert!(boot.is_ready(&wanted));
    assert_eq!(boot.hostname, None);
    let status = boot.status.unwrap();
    assert!(
        status.len() < 5000 && !status.contains(char::is_control),
        "{status}"
    );
    // A guest that changes its mind without end writes no log without end.
    let mut logged = 0;
    for _ in 0..1000 {
        for message in ["X_SYSTEMD_SHUTDOWN=poweroff", "READY=1"] {
            logged += usize::from(notified.lock().take(message.as_bytes()).is_some());
        }
    }
    assert!(logged <= usize::from(MAX_LOGGED), "{logged}");
}

#[test]
fn messages_that_come_too_fast_are_not_read() {
    let begin = Instant::now();
    let mut budget = Budget::new(begin);
    let read = (0..10_000).filter(|_| budget.take(begin)).count();
    assert_eq!(read, BURST as usize);
    let later = begin + Duration::from_secs(2);
    let read = (0..10_000).filter(|_| budget.take(later)).count();
    assert_eq!(read, 2 * PER_SECOND as usize);
}

#[tokio::test]
async fn silent_connections_keep_no_message_out_and_each_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    crate::devices::vsock::prepare(directory.path()).unwrap();
    let notified = Notified::new(None);
    tokio::spawn(serve(listen(directory.path()).unwrap(), notified.clone()));
    let path = port_of_host(directory.path(), NOTIFY_PORT);
    let mut silent = Vec::new();
    for _ in 0..3 * PLACES {
        silent.push(UnixStream::connect(&path).await.unwrap());
    }
    let mut long = UnixStream::connect(&path).await.unwrap();
    let _ = long.write_all(&vec![b'\n'; 2 * MAX_MESSAGE as usize]).await;
    let mut systemd = UnixStream::connect(&path).await.unwrap();
    systemd.write_all(b"READY=1\n").await.unwrap();
    systemd.shutdown().await.unwrap();
    let mut end = Vec::new();
    systemd.read_to_end(&mut end).await.unwrap();
    assert!(end.is_empty());
    while notified.boot().state != BootState::Booted {
        tokio::task::yield_now().await;
    }
    // The first of them has given way.
    let _ = silent[0].read_to_end(&mut end).await;
}

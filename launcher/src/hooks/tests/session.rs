//! The calls as they go over a socket, with sidecars that hang, lie, talk too much, or are gone.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{oneshot, watch};

use super::super::{Deadlines, HookError, Hooked, Hooks, Plugin, run};
use super::doubles::{SHORT, Script, Shared};
use crate::error::{ExitCode, Failure};

fn plugin(name: &str, interfaces: &[&str]) -> Plugin {
    let hooked = |name: &&str| Hooked {
        name: (*name).to_owned(),
        mac_is_given: false,
        attached: false,
    };
    Plugin {
        name: name.to_owned(),
        interfaces: interfaces.iter().map(hooked).collect(),
    }
}

fn hooks(shared: &Shared, plugins: Vec<Plugin>) -> Hooks {
    Hooks {
        directory: shared.path(),
        deadlines: Deadlines {
            start: SHORT,
            call: SHORT,
            farewell: SHORT,
        },
        vmi: json!({"kind": "VirtualMachineInstance"}),
        plugins,
    }
}

fn config(names: &[&str]) -> Value {
    let nic = |(place, name): (usize, &&str)| json!({"id": name, "mac": format!("02:00:00:00:00:0{place}"), "num_queues": 2});
    json!({
        "cpus": {"boot_vcpus": 1},
        "memory": {"size": 1024},
        "net": names.iter().enumerate().map(nic).collect::<Vec<_>>(),
    })
}

/// A session that has got as far as its answer.
struct Session {
    answer: Result<Value, HookError>,
    over: watch::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Session {
    async fn start(hooks: Hooks, config: Value) -> Self {
        let (send, defined) = oneshot::channel();
        let (over, watched) = watch::channel(());
        let task = tokio::spawn(run(hooks, config, send, watched));
        let answer = tokio::time::timeout(Duration::from_secs(10), defined)
            .await
            .unwrap()
            .unwrap();
        Self { answer, over, task }
    }

    async fn end(self) {
        drop(self.over);
        tokio::time::timeout(Duration::from_secs(10), self.task)
            .await
            .unwrap()
            .unwrap();
    }
}

/// What the user is told of one plugin `p` whose sidecar is as `script` says.
async fn failure(script: Script) -> (String, Vec<String>) {
    let shared = Shared::new();
    let _sidecar = shared.sidecar("p", script);
    let failure = failure_of(&shared).await;
    (failure, shared.calls())
}

async fn failure_of(shared: &Shared) -> String {
    let session = Session::start(hooks(shared, vec![plugin("p", &["red"])]), config(&["red"])).await;
    let failure = Failure::from(session.answer.unwrap_err());
    assert_eq!(failure.code(), ExitCode::PodUnfit);
    drop(session.over);
    session.task.await.unwrap();
    let text = failure.to_string();
    assert!(text.contains("binding plugin p"), "{text}");
    assert!(text.contains("\n  remedy: "), "{text}");
    text
}

#[tokio::test]
async fn plugins_are_asked_in_their_order_and_told_at_the_end() {
    let shared = Shared::new();
    let _first = shared.sidecar("p", Script::default());
    let _second = shared.sidecar("q", Script::default());
    let plugins = vec![plugin("p", &["red", "green"]), plugin("q", &["blue"])];
    let session = Session::start(hooks(&shared, plugins), config(&["red", "blue", "green"])).await;
    let config = session.answer.as_ref().unwrap();
    let backend = shared.path().join("backend.vhost").display().to_string();
    for place in 0..3 {
        assert_eq!(config["net"][place]["vhost_socket"], backend.as_str());
    }
    assert_eq!(config["memory"], json!({"size": 1024, "shared": true}));
    let asked = [
        "Info",
        "OnDefineVm red",
        "OnDefineVm green",
        "Info",
        "OnDefineVm blue",
    ];
    assert_eq!(shared.calls(), asked);
    session.end().await;
    assert_eq!(shared.calls()[asked.len()..], ["Shutdown", "Shutdown"]);
}

#[tokio::test]
async fn a_sidecar_that_comes_up_later_is_waited_for() {
    let shared = Shared::new();
    let mut hooks = hooks(&shared, vec![plugin("p", &["red"])]);
    hooks.deadlines.start = Duration::from_secs(10);
    // What a container that was killed leaves behind: a socket that nobody listens on.
    drop(std::os::unix::net::UnixListener::bind(shared.path().join("p.sock")).unwrap());
    let session = tokio::spawn(Session::start(hooks, config(&["red"])));
    tokio::time::sleep(Duration::from_millis(200)).await;
    std::fs::remove_file(shared.path().join("p.sock")).unwrap();
    let _sidecar = shared.sidecar("p", Script::default());
    let session = session.await.unwrap();
    assert!(session.answer.is_ok(), "{:?}", session.answer);
    session.end().await;
}

#[tokio::test]
async fn one_that_never_comes_up() {
    let shared = Shared::new();
    let text = failure_of(&shared).await;
    let socket = shared.path().join("p.sock");
    assert!(
        text.contains(&format!("no connection to {} within 0 s", socket.display())),
        "{text}"
    );
    assert!(text.contains("No such file"), "{text}");
}

#[tokio::test]
async fn an_address_that_can_never_be_one_is_not_tried_again() {
    let shared = Shared::new();
    let mut hooks = hooks(&shared, vec![plugin("p", &["red"])]);
    hooks.deadlines.start = Duration::from_secs(60);
    hooks.directory = shared.path().join("d".repeat(120));
    let session = Session::start(hooks, config(&["red"])).await;
    assert!(
        matches!(session.answer, Err(HookError::Absent { .. })),
        "{:?}",
        session.answer
    );
    session.end().await;
}

#[tokio::test]
async fn the_wrong_name_and_the_wrong_version_name_both() {
    let (text, calls) = failure(Script {
        name: Some("other"),
        ..Script::default()
    })
    .await;
    assert!(
        text.contains("the socket of binding plugin p reports the name \"other\""),
        "{text}"
    );
    assert_eq!(calls, ["Info", "Shutdown"], "nothing else is asked");
    let versions = Some(vec!["v2", "v3"]);
    let (text, calls) = failure(Script {
        versions,
        ..Script::default()
    })
    .await;
    assert!(
        text.contains("binding plugin p speaks \"v2\", \"v3\", hawser v1alpha1"),
        "{text}"
    );
    assert_eq!(calls, ["Info", "Shutdown"]);
    let (text, _) = failure(Script {
        versions: Some(vec![]),
        ..Script::default()
    })
    .await;
    assert!(text.contains("speaks no version, hawser v1alpha1"), "{text}");
}

#[tokio::test]
async fn hanging_sidecars_are_given_up() {
    for call in ["Info", "OnDefineVm"] {
        let began = Instant::now();
        let (text, _) = failure(Script {
            hangs: Some(call),
            ..Script::default()
        })
        .await;
        assert!(
            text.contains(&format!("binding plugin p: {call}: no answer within 0 s")),
            "{text}"
        );
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn an_error_is_repeated_shortened_and_escaped() {
    let (text, _) = failure(Script {
        fails: Some("OnDefineVm"),
        ..Script::default()
    })
    .await;
    assert!(
        text.contains("binding plugin p: OnDefineVm: Internal: out of order\\u{1b}!!!"),
        "{text}"
    );
    assert!(text.len() < 600, "{}", text.len());
}

#[tokio::test]
async fn lies_are_refused_by_path() {
    let change = Some(("/memory/size", json!(4096)));
    let (text, _) = failure(Script {
        change,
        ..Script::default()
    })
    .await;
    assert!(
        text.contains("its answer is refused\nmemory.size: the sidecar changed it from 1024 to 4096, and may set fields of its own NIC only"),
        "{text}"
    );
    let (text, _) = failure(Script {
        socket: Some("nobody"),
        ..Script::default()
    })
    .await;
    assert!(
        text.contains("\nnet[0].vhost_socket: ") && text.contains("not there"),
        "{text}"
    );
    let (text, _) = failure(Script {
        socket: Some("../s"),
        ..Script::default()
    })
    .await;
    assert!(text.contains("not in the shared directory"), "{text}");
}

#[tokio::test]
async fn nonsense_and_too_much_of_it() {
    for (answer, why) in [
        (b"".to_vec(), "not JSON"),
        (b"{\"net\": ".to_vec(), "not JSON"),
        (vec![0xff; 100], "not JSON"),
        ("[".repeat(20_000).into_bytes(), "not JSON"),
        (
            b"null".to_vec(),
            "vm_config: the sidecar left out an object: it must return what it does not set",
        ),
        (vec![b' '; 60_000], "OutOfRange"),
        (vec![b' '; 3 << 20], "OutOfRange"),
    ] {
        let (text, _) = failure(Script {
            answer: Some(answer),
            ..Script::default()
        })
        .await;
        assert!(text.contains(why), "{why}: {text}");
    }
}

#[tokio::test]
async fn half_open_and_foreign_ones() {
    // Accepts and says nothing.
    let shared = Shared::new();
    let _sidecar = shared.raw("p", |mut stream| async move {
        let mut sink = Vec::new();
        let _ = stream.read_to_end(&mut sink).await;
    });
    let text = failure_of(&shared).await;
    assert!(text.contains("Info: no answer"), "{text}");

    // Closes at once.
    let shared = Shared::new();
    let _sidecar = shared.raw("p", |stream| async move { drop(stream) });
    failure_of(&shared).await;

    // Speaks something else, without end.
    let shared = Shared::new();
    let _sidecar = shared.raw("p", |mut stream| async move {
        while stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.is_ok() {}
    });
    failure_of(&shared).await;
}

#[tokio::test]
async fn a_sidecar_that_dies_later_ends_nothing_and_is_not_told_anything() {
    let shared = Shared::new();
    let first = shared.sidecar("p", Script::default());
    let _second = shared.sidecar("q", Script::default());
    let plugins = vec![plugin("p", &["red"]), plugin("q", &["blue"])];
    let session = Session::start(hooks(&shared, plugins), config(&["red", "blue"])).await;
    first.abort();
    let _ = first.await;
    assert!(!session.task.is_finished());
    session.end().await;
    let told = shared.calls().iter().filter(|call| *call == "Shutdown").count();
    assert_eq!(told, 1);
}

#[tokio::test]
async fn a_farewell_that_is_not_answered_delays_the_end_only_so_long() {
    let shared = Shared::new();
    let _sidecar = shared.sidecar(
        "p",
        Script {
            hangs: Some("Shutdown"),
            ..Script::default()
        },
    );
    let session = Session::start(hooks(&shared, vec![plugin("p", &["red"])]), config(&["red"])).await;
    let began = Instant::now();
    session.end().await;
    assert!(
        began.elapsed() >= SHORT && began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn the_guests_end_cuts_the_asking_short() {
    let shared = Shared::new();
    let _first = shared.sidecar("p", Script::default());
    let _second = shared.sidecar(
        "q",
        Script {
            hangs: Some("OnDefineVm"),
            ..Script::default()
        },
    );
    let mut hooks = hooks(&shared, vec![plugin("p", &["red"]), plugin("q", &["blue"])]);
    hooks.deadlines.call = Duration::from_secs(60);
    let (send, defined) = oneshot::channel();
    let (over, watched) = watch::channel(());
    let task = tokio::spawn(run(hooks, config(&["red", "blue"]), send, watched));
    while shared.calls().last().map(String::as_str) != Some("OnDefineVm blue") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(over);
    tokio::time::timeout(Duration::from_secs(10), task)
        .await
        .unwrap()
        .unwrap();
    assert!(defined.await.is_err(), "nobody wants the answer");
    let told = shared.calls().iter().filter(|call| *call == "Shutdown").count();
    assert_eq!(told, 2, "also the one that was being asked");
}

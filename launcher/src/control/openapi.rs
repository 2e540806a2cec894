//! docs/control.openapi.json and the handlers: the same routes, and replies as the file says.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::routes::ROUTES;
use super::{Answer, OnTimeout, Order, Refused, board, http};
use crate::status::{BootState, Direction, GuestBoot, Identity, NicDescription, Phase, Step};

fn document() -> Value {
    serde_json::from_str(include_str!("../../../docs/control.openapi.json")).unwrap()
}

/// Holds a value against a schema of the file.
fn hold(schema: &str, value: &Value) {
    let mut root = document();
    root["$ref"] = json!(format!("#/components/schemas/{schema}"));
    let validator = jsonschema::validator_for(&root).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{schema}: {value}: {errors:?}");
}

#[test]
fn the_file_has_the_routes_of_the_code_and_no_others() {
    let document = document();
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            described.insert((method.to_uppercase(), path.clone()));
        }
    }
    let routes: BTreeSet<_> = ROUTES
        .iter()
        .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    assert_eq!(described, routes);
}

#[test]
fn every_answer_is_as_the_file_says() {
    let json = |answer: &Answer| serde_json::to_value(answer).unwrap();
    let text = || "text".to_owned();
    hold("Done", &json(&Answer::Done { text: text() }));
    let step = text();
    hold("Progress", &json(&Answer::Progress { step, text: text() }));
    let ended = Answer::Ended {
        migrated: true,
        text: text(),
    };
    hold("Ended", &json(&ended));
    hold(
        "Refused",
        &serde_json::to_value(Refused { error: text() }).unwrap(),
    );
    let order = Order {
        to: "tcp:b:1".into(),
        tls_dir: None,
        server_name: Some(text()),
        downtime_ms: 300,
        timeout_s: Some(1),
        timeout_per_gib_s: 150,
        progress_timeout_s: 150,
        connections: 1,
        bandwidth: None,
        on_timeout: OnTimeout::Pause,
        max_downtime_ms: None,
        auto_converge: true,
    };
    hold("Order", &serde_json::to_value(order).unwrap());
}

#[test]
fn every_status_is_as_the_file_says() {
    let dir = tempfile::tempdir().unwrap();
    let guest = Identity {
        namespace: "ns".into(),
        name: "web".into(),
        uid: Some("uid".into()),
    };
    let nic = NicDescription {
        name: "default".into(),
        binding: "masquerade".into(),
        tap: "tap0".into(),
        tap_mac: None,
        mac: "02:00:5e:00:53:07".into(),
        mtu: 1500,
        queue_pairs: 1,
        addresses: vec!["10.0.2.2/24".into()],
        passt: None,
        pod: None,
        addresses_may_change: false,
        vf: None,
    };
    let mut board = board::Board::new(dir.path(), guest, vec![nic]);
    board.status.facts.obstacles = vec!["why not".into()];
    board.status.facts.leased = [("default".to_owned(), vec!["10.0.2.2".parse().unwrap()])].into();
    for (number, phase) in Phase::ALL.into_iter().enumerate() {
        board.phase(phase);
        board.status.facts.boot = BootState::ALL.get(number).map(|state| GuestBoot {
            state: *state,
            since: 1,
            targets: vec!["multi-user.target".into()],
            status: Some("Ready.".into()),
            hostname: Some("web".into()),
        });
        board.migration(Direction::Out, "tcp:b:1", Step::Sending, None);
        board.round(2, 4096);
        board.status.refresh();
        hold("Status", &serde_json::to_value(&board.status).unwrap());
        board.migration(Direction::Out, "tcp:b:1", Step::Failed, Some("broken"));
        board.status.refresh();
        hold("Status", &serde_json::to_value(&board.status).unwrap());
    }
}

#[test]
fn every_status_of_http_that_a_reply_may_have_is_in_the_file() {
    let text = document().to_string();
    for code in [101, 200, 400, 409, 426] {
        assert!(text.contains(&format!("\"{code}\"")), "{code}");
    }
    // What is wrong with the request itself is not said for each path: no route, another method, no launcher any more.
    for code in [
        http::Code::NotFound,
        http::Code::MethodNotAllowed,
        http::Code::Unavailable,
    ] {
        assert!(!text.contains(&format!("\"{}\"", code as u16)));
    }
}

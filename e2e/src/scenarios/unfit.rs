//! What `hawser run` refuses to start for, `hawser check` reports: the same things, in the same words, with the same exit code.
//! One table of pods in which something stands in the way.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Context;
use super::running::exit_code;
use crate::pods::{Pod, PodSpec, Privileges, set, vmi};
use crate::report::Scenario;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "run and check refuse the same, in the same words",
        run: table,
    },
    Scenario {
        name: "run refuses with everything that stands in the way",
        run: all_at_once,
    },
    Scenario {
        name: "a node without an expression of nftables",
        run: without_fib,
    },
];

const UNFIT: i32 = 4;

/// One way in which a pod is unfit.
struct Case {
    name: &'static str,
    privileges: Privileges,
    /// Field of the manifest by JSON pointer, and its value.
    fields: Vec<(&'static str, Value)>,
    options: &'static [&'static str],
    /// What the refusal names.
    names: &'static str,
}

fn case(name: &'static str, fields: Vec<(&'static str, Value)>, names: &'static str) -> Case {
    Case {
        name,
        privileges: Privileges::Root,
        fields,
        options: &[],
        names,
    }
}

fn claim() -> Vec<(&'static str, Value)> {
    let volume = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    let disk = json!([{"name": "data", "disk": {}}]);
    vec![("/spec/volumes", volume), ("/spec/domain/devices/disks", disk)]
}

fn huge_pages() -> Value {
    json!({"guest": "1Gi", "hugepages": {"pageSize": "1Gi"}})
}

fn cases() -> Vec<Case> {
    let interfaces = "/spec/domain/devices/interfaces";
    vec![
        Case {
            privileges: Privileges::Nothing,
            ..case("no capability", Vec::new(), "NET_ADMIN")
        },
        case("a claim that is not mounted", claim(), "spec.volumes[0]"),
        case(
            "no kernel in the image",
            vec![(
                "/spec/domain/firmware/kernelBoot/container/kernelPath",
                json!("/none"),
            )],
            "kernelBoot.container.kernelPath",
        ),
        case(
            "too few huge pages",
            vec![("/spec/domain/memory", huge_pages())],
            "spec.domain.memory.hugepages",
        ),
        case(
            "CPUs that other pods use",
            vec![(
                "/spec/domain/cpu",
                json!({"cores": 1, "dedicatedCpuPlacement": true}),
            )],
            "dedicatedCpuPlacement",
        ),
        case(
            "a directory to share that is not mounted",
            vec![
                (
                    "/spec/volumes",
                    json!([{"name": "keys", "secret": {"secretName": "keys"}}]),
                ),
                (
                    "/spec/domain/devices/filesystems",
                    json!([{"name": "keys", "virtiofs": {}}]),
                ),
            ],
            "filesystems[0]",
        ),
        case(
            "no VF for an SR-IOV interface",
            vec![
                (interfaces, json!([{"name": "red", "sriov": {}}])),
                (
                    "/spec/networks",
                    json!([{"name": "red", "multus": {"networkName": "red"}}]),
                ),
            ],
            "spec.networks[0]",
        ),
        case(
            "no interface on a network",
            vec![
                (
                    interfaces,
                    json!([{"name": "default", "masquerade": {}}, {"name": "red", "bridge": {}}]),
                ),
                (
                    "/spec/networks",
                    json!([{"name": "default", "pod": {}}, {"name": "red", "multus": {"networkName": "red"}}]),
                ),
            ],
            "spec.networks[1]",
        ),
        Case {
            options: &["--cloud-hypervisor", "/none"],
            ..case("no VMM", Vec::new(), "cloud-hypervisor: /none")
        },
        Case {
            options: &["--network-status", "/none"],
            ..case("no file with the pod's networks", Vec::new(), "/none")
        },
    ]
}

struct Refusals {
    code: i32,
    /// What and why, with the remedy on a line of its own.
    list: Vec<String>,
}

fn pod(context: &Context, case: &Case) -> Result<Pod> {
    let spec = PodSpec {
        privileges: case.privileges,
        ..PodSpec::default()
    };
    Pod::new(&context.programs, spec)
}

/// Runs a verb in a pod that must be left as it was.
fn refused(pod: &Pod, case: &Case, verb: &str) -> Result<Refusals> {
    let before = pod.netns.snapshot()?;
    let mut manifest = vmi(Value::Null);
    for (field, value) in &case.fields {
        set(&mut manifest, field, value.clone());
    }
    let mut hawser = pod.hawser_as(&pod.entry(), verb, &manifest, case.options)?;
    let code = exit_code(&mut hawser)?;
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(changes.is_empty(), "hawser {verb} changed the pod: {changes:#?}");
    let list = match verb {
        "check" => of_check(&hawser.stdout()),
        _ => of_run(&hawser.stderr()),
    };
    ensure!(
        !list.is_empty(),
        "hawser {verb} refuses nothing:\n{}",
        hawser.transcript()
    );
    Ok(Refusals { code, list })
}

/// `FAIL  what and why`, and lines that are indented.
fn of_check(text: &str) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    let mut in_failure = false;
    for line in text.lines() {
        if let Some(what) = line.strip_prefix("FAIL  ") {
            list.push(what.to_owned());
            in_failure = true;
        } else if !line.starts_with("  ") {
            in_failure = false;
        } else if let (true, Some(last)) = (in_failure, list.last_mut()) {
            last.push('\n');
            last.push_str(line);
        }
    }
    list
}

/// `hawser: what and why`, or `hawser: N things stand in the way` and each of them indented once more.
fn of_run(text: &str) -> Vec<String> {
    let Some((_, error)) = text.split_once("hawser: ") else {
        return Vec::new();
    };
    let Some((head, rest)) = error.split_once('\n') else {
        return vec![error.to_owned()];
    };
    if !head.ends_with(" things stand in the way") {
        return vec![error.trim_end().to_owned()];
    }
    let mut list: Vec<String> = Vec::new();
    for line in rest.lines().filter_map(|line| line.strip_prefix("  ")) {
        match list.last_mut() {
            Some(last) if line.starts_with("  ") => {
                last.push('\n');
                last.push_str(line);
            }
            _ => list.push(line.to_owned()),
        }
    }
    list
}

fn table(context: &Context) -> Result<()> {
    for case in cases() {
        compare(&pod(context, &case)?, &case).with_context(|| case.name)?;
    }
    Ok(())
}

fn compare(pod: &Pod, case: &Case) -> Result<Refusals> {
    let run = refused(pod, case, "run")?;
    let check = refused(pod, case, "check")?;
    ensure!(
        run.code == UNFIT && check.code == UNFIT,
        "run ended with {}, check with {}",
        run.code,
        check.code
    );
    ensure!(
        run.list.iter().any(|line| line.contains(case.names)),
        "{} is not named: {:#?}",
        case.names,
        run.list
    );
    ensure!(
        run.list == check.list,
        "run refuses {:#?}\ncheck reports {:#?}",
        run.list,
        check.list
    );
    Ok(run)
}

fn all_at_once(context: &Context) -> Result<()> {
    let mut fields = claim();
    fields.push(("/spec/domain/memory", huge_pages()));
    fields.push((
        "/spec/domain/firmware/kernelBoot/container/kernelPath",
        json!("/none"),
    ));
    let case = Case {
        privileges: Privileges::Nothing,
        options: &["--cloud-hypervisor", "/none"],
        ..case("several", fields, "NET_ADMIN")
    };
    let run = compare(&pod(context, &case)?, &case)?;
    for named in [
        "NET_ADMIN",
        "hugepages",
        "kernelPath",
        "spec.volumes[0]",
        "cloud-hypervisor: /none",
    ] {
        ensure!(
            run.list.iter().any(|line| line.contains(named)),
            "{named} is not named: {:#?}",
            run.list
        );
    }
    Ok(())
}

/// An nft that fails as the kernel has it fail, with the same words.
fn without_fib(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let nft = which("nft")?;
    let (real, script) = (pod.path("real-nft"), pod.path("nft"));
    std::fs::copy(&nft, &real)?;
    let text = format!(
        "#!/bin/sh\ninput=$(cat)\ncase \"$input\" in *'\"fib\"'*)\n\
         echo 'internal:0:0-0: Error: Could not process rule: No such file or directory' >&2; exit 1;; esac\n\
         printf %s \"$input\" | {} \"$@\"\n",
        real.display()
    );
    std::fs::write(&script, text)?;
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut entry = pod.entry();
    entry.binds.push((script, nft));
    let before = pod.netns.snapshot()?;
    for verb in ["check", "run"] {
        let mut hawser = pod.hawser_as(&entry, verb, &vmi(Value::Null), &[])?;
        let code = exit_code(&mut hawser)?;
        let said = hawser.transcript();
        ensure!(code == UNFIT, "{verb}: exit code {code}: {said}");
        ensure!(
            said.contains("this node's kernel cannot load hawser's rules: it lacks fib"),
            "{verb}: {said}"
        );
    }
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(changes.is_empty(), "changed: {changes:?}");
    // The whole rule set passes where nothing is missing.
    let mut check = pod.hawser("check", &vmi(Value::Null))?;
    exit_code(&mut check)?;
    let said = check.transcript();
    ensure!(said.contains("nft: the rule set can be loaded"), "{said}");
    Ok(())
}

fn which(program: &str) -> Result<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|place| place.join(program));
    places
        .find(|place| place.exists())
        .with_context(|| format!("no {program} on PATH"))
}

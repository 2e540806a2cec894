//! KubeVirt's own example manifests, as the API server takes what `hawser pod` makes of them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cluster::api::{Cluster, fed};
use crate::report::Skip;

/// The directory `examples` of KubeVirt's repository.
const DIRECTORY: &str = "KUBEVIRT_EXAMPLES";
/// How many of them hawser accepts: docs/examples.md.
const ACCEPTED: usize = 25;

/// Nothing is made: the API server checks each object and forgets it. A class of priority that an example names is one of the
/// examples too, and has to be there.
pub(super) fn are_taken(cluster: &Cluster) -> Result<()> {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        let reason = format!("{DIRECTORY} names no directory: the examples are in KubeVirt's repository");
        return Err(Skip::because(reason).into());
    };
    cluster.within("examples", &[], |namespace| {
        let class = directory.join("non-preemtible.yaml").display().to_string();
        namespace.run(&["apply", "--filename", &class])?;
        let mut taken = 0;
        let mut refused = Vec::new();
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            let mut hawser = Command::new(&cluster.hawser);
            hawser
                .args(["pod", "--namespace", &namespace.name, "--vmi"])
                .arg(&path);
            // What hawser refuses is for the scenarios without a cluster.
            let Ok(objects) = fed(&mut hawser, "") else {
                continue;
            };
            match namespace.feed(&["apply", "--dry-run=server", "--filename", "-"], &objects) {
                Ok(_) => taken += 1,
                Err(error) => refused.push(format!("{}: {error:#}", path.display())),
            }
        }
        namespace.run(&["delete", "--filename", &class])?;
        ensure!(
            refused.is_empty(),
            "refused by the API server:\n{}",
            refused.join("\n")
        );
        ensure!(taken == ACCEPTED, "{taken} examples are pods, and not {ACCEPTED}");
        Ok(())
    })
}

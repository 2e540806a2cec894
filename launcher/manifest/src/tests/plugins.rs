//! Interfaces that name binding plugins.

use serde_json::json;

use super::*;
use crate::plugins;

const BINDINGS: &str = "
macvtap: {domainAttachmentType: tap}
proxy: {sidecarImage: proxy}
both: {domainAttachmentType: managedTap, sidecarImage: proxy}
";

fn refused(registry: &Registry, binding: Value) -> Vec<String> {
    let text = with(&[
        ("/spec/domain/devices/interfaces/0/masquerade", json!(null)),
        ("/spec/domain/devices/interfaces/0/binding", binding),
    ]);
    match load_with(&text, registry) {
        Ok(loaded) => panic!("accepted: {loaded:#?}"),
        Err(refusals) => refusals.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn a_plugin_that_nobody_registered() {
    assert_eq!(
        refused(&Registry::default(), json!({"name": "macvtap"})),
        [
            "spec.domain.devices.interfaces[0].binding.name: binding plugin \"macvtap\" is not registered: pass --bindings FILE"
        ]
    );
    let registry = plugins::parse(BINDINGS, "/etc/bindings").unwrap();
    assert_eq!(
        refused(&registry, json!({"name": "passt"})),
        [
            "spec.domain.devices.interfaces[0].binding.name: binding plugin \"passt\" is not registered: /etc/bindings \
             registers both, macvtap, proxy"
        ]
    );
    for (binding, expected) in [
        (json!({"name": ""}), "required"),
        (json!({}), "required"),
        (json!({"name": 1}), "expected string, found number 1"),
    ] {
        let expected = format!("spec.domain.devices.interfaces[0].binding.name: {expected}");
        assert_eq!(refused(&registry, binding), [expected]);
    }
}

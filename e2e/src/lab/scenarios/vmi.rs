//! Manifests as the scenarios need them.

use serde_json::{Value, json};

/// What the certificates of all guests' launchers are for: one certificate for a namespace.
pub(super) const LAUNCHERS: &str = "*.default.vmi";

/// A guest with one masquerade NIC. `ports` empty: everything goes to the guest.
pub(super) fn masquerade(name: &str, ports: &[u16]) -> Value {
    let mut interface = json!({"name": "default", "masquerade": {}});
    if !ports.is_empty() {
        let ports: Vec<Value> = ports
            .iter()
            .map(|port| json!({"port": port, "protocol": "TCP"}))
            .collect();
        set(&mut interface, "/ports", json!(ports));
    }
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "terminationGracePeriodSeconds": 30,
            "domain": {
                "cpu": {"cores": 1},
                "memory": {"guest": "192Mi"},
                "devices": {"interfaces": [interface]},
                "firmware": {"kernelBoot": {
                    "container": {"image": "guest", "kernelPath": "/vmlinux", "initrdPath": "/initrd.img"},
                    "kernelArgs": "console=ttyS0 quiet panic=-1 mitigations=off"
                }}
            },
            "networks": [{"name": "default", "pod": {}}]
        }
    })
}

/// Puts `value` at a JSON pointer, whose last part may be new.
pub(super) fn set(manifest: &mut Value, pointer: &str, value: Value) {
    let Some((parent, key)) = pointer.rsplit_once('/') else {
        return;
    };
    if let Some(object) = manifest.pointer_mut(parent).and_then(Value::as_object_mut) {
        object.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_reaches_into_the_manifest() {
        let mut vmi = masquerade("g", &[80]);
        set(&mut vmi, "/spec/domain/cpu", json!({"cores": 2}));
        assert_eq!(vmi.pointer("/spec/domain/cpu/cores"), Some(&json!(2)));
        assert_eq!(
            vmi.pointer("/spec/domain/devices/interfaces/0/ports/0/port"),
            Some(&json!(80))
        );
    }
}

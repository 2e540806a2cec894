//! Containers of binding plugins (`sidecarImage`). They start before the guest's container and end after it, so that the
//! pod ends when the guest has.

use std::collections::BTreeMap;

use hawser_manifest::Binding;
use serde_json::{Value, json};

use crate::names::{self, GUEST_USER};
use crate::source::Source;
use crate::volumes::{STATE, own_name};

/// Each image once, by the plugin's name.
fn images<'a>(source: &Source<'a>) -> BTreeMap<&'a str, &'a str> {
    let plugins = source
        .guest
        .interfaces
        .iter()
        .filter_map(|interface| match &interface.binding {
            Binding::Plugin { name, plugin } => Some((name.as_str(), plugin.sidecar_image.as_deref()?)),
            _ => None,
        });
    plugins.collect()
}

pub(crate) fn any(source: &Source<'_>) -> bool {
    !images(source).is_empty()
}

/// The directory that they share with hawser.
pub(crate) fn volume() -> Value {
    json!({"name": own_name("hooks"), "emptyDir": {}})
}

pub(crate) fn mount() -> Value {
    json!({"name": own_name("hooks"), "mountPath": format!("{STATE}/hooks")})
}

/// As the guest's user: hawser has to be able to connect to the socket, and nothing more is known of the plugin.
pub(crate) fn containers(source: &Source<'_>) -> Vec<Value> {
    images(source)
        .into_iter()
        .map(|(name, image)| {
            json!({
                "name": names::container("plugin", name),
                "image": image,
                "restartPolicy": "Always",
                "securityContext": {
                    "runAsUser": GUEST_USER,
                    "runAsGroup": GUEST_USER,
                    "allowPrivilegeEscalation": false,
                    "seccompProfile": {"type": "RuntimeDefault"},
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [mount()],
            })
        })
        .collect()
}

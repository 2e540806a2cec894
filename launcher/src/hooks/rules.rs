//! What a sidecar may change: the pure half.
//!
//! Its answer is laid over the configuration that it was given. The NIC of its interface is looked at field by field,
//! everything else has to be the same, and every difference that is not allowed is refused by its path, all at once. What
//! goes on from here is hawser's own configuration with the fields taken over, never the sidecar's document.

use std::path::Path;

use serde_json::{Map, Value};

use super::Hooked;
use crate::spec::{FieldPath, Mac, NotAMac, Refusals, Report, quoted};

/// The configuration with the NIC as the sidecar wants it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Merged {
    pub(crate) config: Value,
    /// Where the NIC is, for what is refused of it later.
    pub(crate) nic: FieldPath,
    /// As the sidecar names it.
    pub(crate) socket: Option<String>,
}

/// Lays `theirs` over `ours`, for one interface.
pub(crate) fn merge(ours: &Value, theirs: &Value, hooked: &Hooked) -> Result<Merged, Refusals> {
    let mut report = Report::default();
    let net = FieldPath::of("net");
    let place = nics(ours)
        .iter()
        .position(|nic| nic.get("id").and_then(Value::as_str) == Some(&hooked.name));
    let Some(place) = place else {
        return Err(Refusals::one(
            "net",
            format!("no entry for {}", quoted(&hooked.name)),
        ));
    };
    let path = net.index(place);
    let at = Place { index: place };
    at.same(ours, theirs, &FieldPath::default(), &mut report);
    let mut config = ours.clone();
    let mut socket = None;
    let pointer = format!("/net/{place}");
    if let (Some(Value::Object(before)), Some(Value::Object(after))) =
        (ours.pointer(&pointer), theirs.pointer(&pointer))
    {
        let nic = Nic {
            path: &path,
            attached: hooked.attached,
            mac_is_given: hooked.mac_is_given,
            vcpus: ours
                .pointer("/cpus/boot_vcpus")
                .and_then(Value::as_u64)
                .unwrap_or(1),
            others: nics(ours)
                .iter()
                .enumerate()
                .filter(|(index, _)| *index != place)
                .map(|(_, nic)| nic)
                .collect(),
        };
        let nic = nic.completed(before, after, &mut report);
        socket = nic.get("vhost_socket").and_then(Value::as_str).map(str::to_owned);
        if let Some(entry) = config.pointer_mut(&pointer) {
            *entry = Value::Object(nic);
        }
    }
    report.finish(ours)?;
    Ok(Merged {
        config,
        nic: path,
        socket,
    })
}

/// A vhost-user backend maps the guest's memory, so it has to be shared: hawser's business, not a sidecar's.
pub(super) fn share_memory_where_needed(config: &mut Value) {
    let needed = nics(config)
        .iter()
        .any(|nic| nic.get("vhost_user") == Some(&Value::Bool(true)));
    if let Some(Value::Object(memory)) = config.get_mut("memory").filter(|_| needed) {
        memory.insert("shared".to_owned(), Value::Bool(true));
    }
}

fn nics(config: &Value) -> &[Value] {
    config
        .get("net")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The one entry of `net` that `same` leaves to `Nic`.
struct Place {
    index: usize,
}

impl Place {
    /// Refuses every difference outside the NIC.
    fn same(&self, ours: &Value, theirs: &Value, path: &FieldPath, report: &mut Report) {
        match (ours, theirs) {
            (Value::Object(ours), Value::Object(theirs)) => {
                for (key, value) in ours {
                    let path = path.key(key);
                    self.same(value, theirs.get(key).unwrap_or(&Value::Null), &path, report);
                }
                for (key, value) in theirs {
                    if !ours.contains_key(key) && !value.is_null() {
                        report.refuse_with(path.key(key), || {
                            format!(
                                "the sidecar added {}, and may set fields of its own NIC only",
                                shown(value)
                            )
                        });
                    }
                }
            }
            (Value::Array(ours), Value::Array(theirs)) => {
                for (index, value) in ours.iter().enumerate() {
                    let path = path.index(index);
                    let other = theirs.get(index);
                    if path == FieldPath::of("net").index(self.index) && other.is_some_and(Value::is_object) {
                        continue;
                    }
                    self.same(value, other.unwrap_or(&Value::Null), &path, report);
                }
                for (index, value) in theirs.iter().enumerate().skip(ours.len()) {
                    report.refuse_with(path.index(index), || {
                        format!(
                            "the sidecar added {}, and may set fields of its own NIC only",
                            shown(value)
                        )
                    });
                }
            }
            (ours, theirs) if ours == theirs => {}
            (ours, Value::Null) => {
                report.refuse_with(named(path), || {
                    format!(
                        "the sidecar left out {}: it must return what it does not set",
                        shown(ours)
                    )
                });
            }
            (ours, theirs) => report.refuse_with(named(path), || {
                format!(
                    "the sidecar changed it from {} to {}, and may set fields of its own NIC only",
                    shown(ours),
                    shown(theirs)
                )
            }),
        }
    }
}

/// The whole document has no path of its own.
fn named(path: &FieldPath) -> FieldPath {
    if *path == FieldPath::default() {
        FieldPath::of("vm_config")
    } else {
        path.clone()
    }
}

/// The NIC of the plugin, and what its fields are held against.
struct Nic<'a> {
    path: &'a FieldPath,
    /// The device is not the sidecar's to choose.
    attached: bool,
    mac_is_given: bool,
    vcpus: u64,
    others: Vec<&'a Value>,
}

impl Nic<'_> {
    /// `before` with the fields that the sidecar may set and has set.
    fn completed(
        &self,
        before: &Map<String, Value>,
        after: &Map<String, Value>,
        report: &mut Report,
    ) -> Map<String, Value> {
        let mut nic = before.clone();
        for (key, value) in before {
            if after.get(key).is_none_or(Value::is_null) {
                report.refuse_with(self.path.key(key), || {
                    format!(
                        "the sidecar left out {}: it must return what it does not set",
                        shown(value)
                    )
                });
            }
        }
        for (key, value) in after.iter().filter(|(_, value)| !value.is_null()) {
            if before.get(key) == Some(value) {
                continue;
            }
            match self.field(key, value) {
                Ok(()) => drop(nic.insert(key.clone(), value.clone())),
                Err(why) => report.refuse_with(self.path.key(key), || format!("{}: {why}", shown(value))),
            }
        }
        if !self.attached {
            self.backend(&nic, after, report);
        }
        nic
    }

    /// Whether the sidecar may set this field to this.
    fn field(&self, key: &str, value: &Value) -> Result<(), String> {
        const HAWSERS: &str = "hawser has attached this NIC to a device (domainAttachmentType)";
        match key {
            "mac" if self.mac_is_given => Err("the manifest sets macAddress".to_owned()),
            "mac" => self.mac(value),
            "queue_size" => {
                let fits = |size: &u64| (16..=32_768).contains(size) && size.is_power_of_two();
                number(value, fits, "a power of two from 16 to 32768")
            }
            "offload_tso" | "offload_ufo" | "offload_csum" => match value {
                Value::Bool(_) => Ok(()),
                _ => Err("expected true or false".to_owned()),
            },
            "vhost_user" | "vhost_socket" | "vhost_mode" | "tap" | "num_queues" | "mtu" if self.attached => {
                Err(HAWSERS.to_owned())
            }
            "vhost_user" => match value {
                Value::Bool(_) => Ok(()),
                _ => Err("expected true or false".to_owned()),
            },
            "vhost_mode" if value == "Client" => Ok(()),
            "vhost_mode" => Err("expected \"Client\": the sidecar's backend listens".to_owned()),
            // Looked at by `socket`.
            "vhost_socket" if value.is_string() => Ok(()),
            "vhost_socket" => Err("expected a path".to_owned()),
            "tap" => self.tap(value),
            "num_queues" => {
                let most = self.vcpus.saturating_mul(2);
                let fits = |queues: &u64| (2..=most).contains(queues) && queues.is_multiple_of(2);
                number(value, fits, &format!("an even number from 2 to {most}"))
            }
            "mtu" => number(value, |mtu| (68..=65_535).contains(mtu), "68 to 65535"),
            _ => Err("a sidecar may not set this".to_owned()),
        }
    }

    fn mac(&self, value: &Value) -> Result<(), String> {
        let mac: Mac = value
            .as_str()
            .ok_or("expected text")?
            .parse()
            .map_err(|form: NotAMac| form.to_string())?;
        let [first, ..] = mac.0;
        if mac.0 == [0; 6] || first & 1 == 1 {
            return Err("expected a unicast address".to_owned());
        }
        let taken = |nic: &&&Value| {
            let other = nic
                .get("mac")
                .and_then(Value::as_str)
                .and_then(|other| other.parse().ok());
            other == Some(mac)
        };
        match self.others.iter().find(taken) {
            Some(_) => Err("another NIC has this MAC".to_owned()),
            None => Ok(()),
        }
    }

    /// A name as Linux has them (dev_valid_name), and nobody else's.
    fn tap(&self, value: &Value) -> Result<(), String> {
        let name = value.as_str().ok_or("expected a name")?;
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
        if name.is_empty() || name.len() > 15 || !name.bytes().all(plain) || matches!(name, "." | "..") {
            return Err("expected an interface's name of 1 to 15 characters".to_owned());
        }
        if self.others.iter().any(|nic| nic.get("tap") == Some(value)) {
            return Err("another NIC has this TAP".to_owned());
        }
        Ok(())
    }

    /// One backend, and what belongs to it.
    fn backend(&self, nic: &Map<String, Value>, after: &Map<String, Value>, report: &mut Report) {
        let names = |key: &str| after.get(key).is_some_and(|value| !value.is_null());
        if names("vhost_user") && !nic.contains_key("vhost_user") {
            // Refused for what it says; what it was to say is anybody's guess.
            return;
        }
        let vhost_user = nic.get("vhost_user") == Some(&Value::Bool(true));
        match (vhost_user, names("tap")) {
            (true, true) => report.refuse(self.path.key("tap"), "beside vhost_user: a NIC has one backend"),
            (false, false) => report.refuse(
                self.path.clone(),
                "the NIC has no backend: set vhost_user and vhost_socket, or tap",
            ),
            _ => {}
        }
        if vhost_user && !names("vhost_socket") {
            report.refuse(self.path.key("vhost_socket"), "required with vhost_user");
        }
        for key in ["vhost_socket", "vhost_mode", "mtu"] {
            if !vhost_user && nic.contains_key(key) {
                report.refuse(self.path.key(key), "only with vhost_user");
            }
        }
    }
}

fn number(value: &Value, fits: impl Fn(&u64) -> bool, expected: &str) -> Result<(), String> {
    match value.as_u64().filter(fits) {
        Some(_) => Ok(()),
        None => Err(format!("expected {expected}")),
    }
}

/// A value in a message: short, and harmless to a terminal.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string(),
    }
}

/// Whether a path is the sidecar's to name at all: absolute, below the shared directory, no step up, and short enough for
/// a socket's address (unix(7), sun_path).
pub(super) fn inside<'a>(directory: &Path, path: &'a str) -> Result<&'a Path, String> {
    const LONGEST: usize = 107;
    let below = Path::new(path)
        .strip_prefix(directory)
        .map_err(|_| format!("not in the shared directory {}", directory.display()))?;
    let plain = |part| matches!(part, std::path::Component::Normal(_));
    if below.as_os_str().is_empty() || !below.components().all(plain) {
        return Err(format!("not in the shared directory {}", directory.display()));
    }
    if path.len() > LONGEST {
        return Err(format!("longer than the {LONGEST} bytes of a socket's address"));
    }
    Ok(below)
}

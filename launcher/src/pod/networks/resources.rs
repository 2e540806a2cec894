//! The SR-IOV device plugin's variables: `PCIDEVICE_<RESOURCE>`, addresses joined by commas in the order of allocation,
//! and `PCIDEVICE_<RESOURCE>_INFO`, an object by address, with what each has in the pod.
//!
//! `<RESOURCE>` is the resource's full name in upper case with dots and slashes made underscores, so it cannot be turned
//! back; names are compared in that form. Which resource a network is of stands in an annotation of its
//! NetworkAttachmentDefinition, which no pod sees: KubeVirt says so in `KUBEVIRT_RESOURCE_NAME_<network>`.
//!
//! Plugins for devices that are no NICs, KubeVirt's own among them, have variables of the same form with other names:
//! `PCI_RESOURCE_<RESOURCE>`, `MDEV_PCI_RESOURCE_<RESOURCE>` and `USB_RESOURCE_<RESOURCE>`.

use std::collections::BTreeMap;

use super::Error;
use crate::spec::{PciAddress, quoted};

const DEVICES: &str = "PCIDEVICE_";
const INFO: &str = "_INFO";
const OF_NETWORK: &str = "KUBEVIRT_RESOURCE_NAME_";
const FUNCTIONS: &str = "PCI_RESOURCE_";
const MEDIATED: &str = "MDEV_PCI_RESOURCE_";
const USB: &str = "USB_RESOURCE_";

/// The devices of each resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    /// By the variable's form of the resource's name.
    devices: BTreeMap<String, Vec<PciAddress>>,
    /// The same form, by the network's name.
    of_network: BTreeMap<String, String>,
    /// What is for no network, as written: by the variable's own beginning and the same form.
    others: BTreeMap<(&'static str, String), String>,
}

/// What the pod has of a resource that a device of the manifest's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Given {
    /// In the plugin's order.
    Functions {
        variable: String,
        addresses: Vec<PciAddress>,
    },
    Mediated {
        variable: String,
    },
    Usb {
        variable: String,
    },
    /// None of these is set.
    Nothing {
        variables: [String; 2],
    },
}

impl Resources {
    /// This process's own.
    pub(crate) fn from_environment() -> Result<Self, Error> {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::parse(std::env::vars_os().filter_map(text))
    }

    pub(crate) fn parse(variables: impl Iterator<Item = (String, String)>) -> Result<Self, Error> {
        let mut resources = Self::default();
        let mut infos = BTreeMap::new();
        for (variable, value) in variables {
            if let Some(network) = variable.strip_prefix(OF_NETWORK) {
                resources.of_network.insert(network.to_owned(), form(&value));
            } else if let Some((beginning, name)) = other(&variable) {
                resources.others.insert((beginning, form(name)), value);
            } else if let Some(name) = variable.strip_prefix(DEVICES) {
                match name.strip_suffix(INFO) {
                    // A resource may itself be called so; then its value is no object.
                    Some(name) if value.trim_start().starts_with('{') => {
                        infos.insert(form(name), info(&variable, &value)?);
                    }
                    _ => {
                        resources
                            .devices
                            .insert(form(name), addresses(&variable, &value)?);
                    }
                }
            }
        }
        // Only where the plain one is missing: an object says nothing of the order.
        for (name, addresses) in infos {
            resources.devices.entry(name).or_insert(addresses);
        }
        Ok(resources)
    }

    /// The resource that a network is said to be of.
    pub(crate) fn of_network(&self, network: &str) -> Option<&str> {
        // Variables' names have no dash in many shells; KubeVirt writes the network's name as it is.
        let named = self.of_network.get(network);
        named
            .or_else(|| self.of_network.get(&form(network)))
            .map(String::as_str)
    }

    pub(crate) fn devices(&self, resource: &str) -> &[PciAddress] {
        self.devices.get(resource).map_or(&[], Vec::as_slice)
    }

    /// What a resource is, by its full name. Read only now: nobody else's variables are this guest's concern.
    pub(crate) fn given(&self, resource: &str) -> Result<Given, Error> {
        let name = form(resource);
        let written = |beginning: &'static str| {
            let value = self.others.get(&(beginning, name.clone()))?;
            Some((format!("{beginning}{name}"), value))
        };
        if let Some((variable, value)) = written(FUNCTIONS) {
            let addresses = addresses(&variable, value)?;
            return Ok(Given::Functions { variable, addresses });
        }
        if let Some(addresses) = self.devices.get(&name) {
            return Ok(Given::Functions {
                variable: format!("{DEVICES}{name}"),
                addresses: addresses.clone(),
            });
        }
        Ok(match (written(MEDIATED), written(USB)) {
            (Some((variable, _)), _) => Given::Mediated { variable },
            (None, Some((variable, _))) => Given::Usb { variable },
            (None, None) => Given::Nothing {
                variables: [FUNCTIONS, DEVICES].map(|beginning| format!("{beginning}{name}")),
            },
        })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.devices.keys().map(String::as_str)
    }
}

fn other(variable: &str) -> Option<(&'static str, &str)> {
    [FUNCTIONS, MEDIATED, USB]
        .into_iter()
        .find_map(|beginning| Some((beginning, variable.strip_prefix(beginning)?)))
}

fn form(name: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    name.chars().map(plain).collect()
}

fn addresses(variable: &str, value: &str) -> Result<Vec<PciAddress>, Error> {
    let texts = value.split(',').map(str::trim).filter(|text| !text.is_empty());
    texts.map(|text| address(variable, text)).collect()
}

fn info(variable: &str, value: &str) -> Result<Vec<PciAddress>, Error> {
    let fail = |error: serde_json::Error| Error::Variable {
        variable: variable.to_owned(),
        what: error.to_string(),
    };
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(value).map_err(fail)?;
    object.keys().map(|text| address(variable, text)).collect()
}

fn address(variable: &str, text: &str) -> Result<PciAddress, Error> {
    text.parse().map_err(|form| Error::Variable {
        variable: variable.to_owned(),
        what: format!("{form}, found {}", quoted(text)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Result<Resources, Error> {
        let pairs = variables
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        Resources::parse(pairs)
    }

    fn devices(resources: &Resources, name: &str) -> Vec<String> {
        resources
            .devices(name)
            .iter()
            .map(PciAddress::to_string)
            .collect()
    }

    #[test]
    fn addresses_keep_the_plugins_order() {
        let resources = parse(&[
            ("PCIDEVICE_INTEL_COM_SRIOV", "0000:03:02.1,0000:03:00.3"),
            (
                "PCIDEVICE_INTEL_COM_SRIOV_INFO",
                r#"{"0000:03:00.3":{"vfio":{"dev-mount":"/dev/vfio/5","mount":"/dev/vfio/vfio"}},"0000:03:02.1":{}}"#,
            ),
            ("HOME", "/"),
        ])
        .unwrap();
        assert_eq!(
            devices(&resources, "INTEL_COM_SRIOV"),
            ["0000:03:02.1", "0000:03:00.3"]
        );
        assert_eq!(resources.names().collect::<Vec<_>>(), ["INTEL_COM_SRIOV"]);
    }

    #[test]
    fn what_a_variable_is_called_cannot_forge_a_line_of_the_log() {
        let error = parse(&[("PCIDEVICE_X\u{1b}[2J\n2026 ERROR", "here\n")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "PCIDEVICE_X\\u{1b}[2J\\n2026 ERROR: expected a PCI address of the form dddd:bb:ss.f, found \"here\""
        );
    }

    #[test]
    fn the_info_alone_will_do() {
        let resources = parse(&[("PCIDEVICE_A_INFO", r#"{"0000:03:02.1":{"generic":{}}}"#)]).unwrap();
        assert_eq!(devices(&resources, "A"), ["0000:03:02.1"]);
        // A resource of that name.
        let resources = parse(&[("PCIDEVICE_A_INFO", "0000:03:02.1")]).unwrap();
        assert_eq!(devices(&resources, "A_INFO"), ["0000:03:02.1"]);
    }

    #[test]
    fn kubevirt_tells_the_resource_of_a_network() {
        let resources = parse(&[
            ("KUBEVIRT_RESOURCE_NAME_red-net", "intel.com/sriov_net-a"),
            ("PCIDEVICE_INTEL_COM_SRIOV_NET-A", "0000:03:02.1"),
        ])
        .unwrap();
        let resource = resources.of_network("red-net").unwrap();
        assert_eq!(devices(&resources, resource), ["0000:03:02.1"]);
        assert_eq!(resources.of_network("blue"), None);
    }

    #[test]
    fn a_resource_of_no_network_is_told_by_kubevirts_variables_or_by_the_sriov_plugins() {
        let resources = parse(&[
            (
                "PCI_RESOURCE_NVIDIA_COM_TU104GL_Tesla_T4",
                "0000:65:00.0,0000:17:00.0,",
            ),
            ("PCIDEVICE_EXAMPLE_COM_VF", "0000:03:02.1"),
            ("MDEV_PCI_RESOURCE_NVIDIA_COM_GRID", "6a1d0f68"),
            ("USB_RESOURCE_KUBEVIRT_IO_STORAGE", "1:2"),
            ("PCI_RESOURCE_BROKEN", "not an address"),
        ])
        .unwrap();
        let given = |name: &str| resources.given(name).unwrap();
        let functions = |variable: &str, addresses: &[&str]| Given::Functions {
            variable: variable.into(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        };
        assert_eq!(
            given("nvidia.com/TU104GL_Tesla_T4"),
            functions(
                "PCI_RESOURCE_NVIDIA_COM_TU104GL_TESLA_T4",
                &["0000:65:00.0", "0000:17:00.0"]
            )
        );
        assert_eq!(
            given("example.com/vf"),
            functions("PCIDEVICE_EXAMPLE_COM_VF", &["0000:03:02.1"])
        );
        let mediated = given("nvidia.com/GRID");
        assert!(
            matches!(mediated, Given::Mediated { variable } if variable == "MDEV_PCI_RESOURCE_NVIDIA_COM_GRID")
        );
        let usb = given("kubevirt.io/storage");
        assert!(matches!(usb, Given::Usb { variable } if variable == "USB_RESOURCE_KUBEVIRT_IO_STORAGE"));
        let nothing = given("example.com/other");
        assert!(
            matches!(nothing, Given::Nothing { variables } if variables[0] == "PCI_RESOURCE_EXAMPLE_COM_OTHER")
        );
        let error = resources.given("broken").unwrap_err().to_string();
        assert!(error.starts_with("PCI_RESOURCE_BROKEN: "), "{error}");
        // No network is given one of these for want of another.
        assert_eq!(resources.names().collect::<Vec<_>>(), ["EXAMPLE_COM_VF"]);
    }

    #[test]
    fn what_is_no_address_is_refused_by_its_variable() {
        let error = parse(&[("PCIDEVICE_A", "eth1")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "PCIDEVICE_A: expected a PCI address of the form dddd:bb:ss.f, found \"eth1\""
        );
        let error = parse(&[("PCIDEVICE_A_INFO", "{x")]).unwrap_err();
        assert!(error.to_string().starts_with("PCIDEVICE_A_INFO: "), "{error}");
    }
}

//! The node's NIC with its virtual functions, as an administrator, the device plugin and the SR-IOV CNI plugin would have
//! them for pods.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::node::pace;
use crate::lab::node::pod::Extra;
use crate::lab::process::output;

/// The physical function's own, on both of the networks that the scenarios use.
pub(super) const PF_ADDRESSES: [&str; 2] = ["10.91.0.1", "10.92.0.1"];
/// VFIO's nodes belong to nobody but root until they are given away; KubeVirt's user is who has them here.
const USER: &str = "107:107";

const DEVICES: &str = "/sys/bus/pci/devices";

/// The card with two functions on vfio-pci; it has none when this is dropped.
#[derive(Debug)]
pub(super) struct Card {
    device: PathBuf,
    /// The physical function's interface.
    pub(super) pf: String,
    pub(super) functions: Vec<Function>,
}

/// A virtual function.
#[derive(Debug, Clone)]
pub(super) struct Function {
    pub(super) address: String,
    pub(super) mac: String,
    pub(super) group: String,
}

impl Card {
    pub(super) fn with_functions() -> Result<Self> {
        output(Command::new("modprobe").args(["-a", "igb", "vfio-pci", "vfio_iommu_type1"]))?;
        let device = within("the card's driver", || {
            let bound = fs::read_dir("/sys/bus/pci/drivers/igb").ok()?.flatten();
            bound
                .map(|entry| entry.path())
                .find(|path| path.join("net").exists())
        })?;
        let device = fs::canonicalize(device)?;
        let pf = first(&device.join("net"))?;
        // From here on dropping it cleans up.
        let mut card = Self {
            device,
            pf,
            functions: Vec::new(),
        };
        // Whose driver they get is decided below.
        fs::write(card.device.join("sriov_drivers_autoprobe"), "0")?;
        fs::write(card.device.join("sriov_numvfs"), "2")?;
        ip(&["link", "set", &card.pf, "up"])?;
        for address in PF_ADDRESSES {
            ip(&["address", "replace", &format!("{address}/24"), "dev", &card.pf])?;
        }
        for index in 0..2 {
            card.functions.push(card.function(index)?);
        }
        Ok(card)
    }

    fn function(&self, index: usize) -> Result<Function> {
        let link = fs::read_link(self.device.join(format!("virtfn{index}")))?;
        let address = last(&link)?;
        let mac = format!("02:91:00:00:00:0{index}");
        self.set(index, &["mac", &mac])?;
        bind(&address, "vfio-pci")?;
        let group = last(&fs::read_link(
            Path::new(DEVICES).join(&address).join("iommu_group"),
        )?)?;
        let function = Function { address, mac, group };
        give(&function.node(), USER)?;
        Ok(function)
    }

    /// What the CNI plugin sets on the physical function for one of the virtual ones.
    pub(super) fn set(&self, index: usize, what: &[&str]) -> Result<()> {
        let index = index.to_string();
        let mut arguments = vec!["link", "set", self.pf.as_str(), "vf", index.as_str()];
        arguments.extend(what);
        ip(&arguments)
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        for (what, value) in [("sriov_numvfs", "0"), ("sriov_drivers_autoprobe", "1")] {
            if let Err(error) = fs::write(self.device.join(what), value) {
                eprintln!("node: {what}: {error}");
            }
        }
        let _ = ip(&["address", "flush", "dev", &self.pf]);
    }
}

impl Function {
    pub(super) fn node(&self) -> String {
        format!("/dev/vfio/{}", self.group)
    }
}

/// Has a driver take a device, whatever had it before.
pub(super) fn bind(address: &str, driver: &str) -> Result<()> {
    let device = Path::new(DEVICES).join(address);
    fs::write(device.join("driver_override"), driver)?;
    if device.join("driver").exists() {
        fs::write(device.join("driver/unbind"), address)?;
    }
    fs::write("/sys/bus/pci/drivers_probe", address)?;
    let bound = fs::read_link(device.join("driver")).with_context(|| format!("{address} has no driver"))?;
    ensure!(last(&bound)? == driver, "{address} was not taken by {driver}");
    Ok(())
}

pub(super) fn give(node: &str, user: &str) -> Result<()> {
    output(Command::new("chown").args([user, node])).map(drop)
}

/// What a pod with these functions has, by the SR-IOV device plugin: the nodes and the plugin's variable. `memlock` is the
/// container runtime's hard limit of locked memory, in MiB; the soft one is too low for any guest, and raising it is up to
/// the launcher.
pub(super) fn extra(functions: &[&Function], memlock: u64) -> Extra {
    let addresses: Vec<_> = functions
        .iter()
        .map(|function| function.address.as_str())
        .collect();
    let bytes = memlock << 20;
    let mut podman = vec![
        "--device=/dev/vfio/vfio".to_owned(),
        format!("--ulimit=memlock=65536:{bytes}"),
        format!("--env=PCIDEVICE_EXAMPLE_COM_VF={}", addresses.join(",")),
    ];
    podman.extend(
        functions
            .iter()
            .map(|function| format!("--device={}", function.node())),
    );
    Extra {
        podman,
        hawser: Vec::new(),
    }
}

pub(super) fn ip(arguments: &[&str]) -> Result<()> {
    output(Command::new("ip").args(arguments)).map(drop)
}

fn first(directory: &Path) -> Result<String> {
    let entry = fs::read_dir(directory)?.next().context("empty")??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

fn last(path: &Path) -> Result<String> {
    let name = path.file_name().context("no name")?;
    Ok(name.to_string_lossy().into_owned())
}

fn within<T>(what: &str, find: impl Fn() -> Option<T>) -> Result<T> {
    let end = pace::deadline(Duration::from_secs(20));
    loop {
        if let Some(found) = find() {
            return Ok(found);
        }
        ensure!(Instant::now() < end, "no {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

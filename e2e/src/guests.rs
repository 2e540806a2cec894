//! Guests of the fast tests: a network namespace behind the stand-in's guest port, and real DHCP clients in it.
//!
//! Each client runs with its distribution's own scripts. These write to /etc and /run, so every process of a guest
//! sees copies there that belong to the guest, and what the client made of its lease is read from them and from the
//! kernel.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::entry::Entry;
use crate::netns::Netns;
use crate::pods::Pod;
use crate::process::{Process, output, until};
use crate::report::Skip;

pub(crate) const GUEST4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(crate) const GATEWAY4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
pub(crate) const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 2, 0, 0, 0, 0, 2);

const WAIT: Duration = Duration::from_secs(15);

/// The real clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Udhcpc,
    Dhclient,
    Dhcpcd,
    Networkd,
}

impl Client {
    /// The program, and the Debian package that has it.
    fn program(self) -> (&'static str, &'static str) {
        match self {
            Self::Udhcpc => ("/sbin/udhcpc", "udhcpc"),
            Self::Dhclient => ("/sbin/dhclient", "isc-dhcp-client"),
            Self::Dhcpcd => ("/sbin/dhcpcd", "dhcpcd-base"),
            Self::Networkd => ("/lib/systemd/systemd-networkd", "systemd"),
        }
    }

    /// # Errors
    /// A [`Skip`] where it is missing.
    pub(crate) fn require(self) -> Result<()> {
        let (program, package) = self.program();
        if !Path::new(program).exists() {
            return Err(Skip::because(format!("no {program}: install {package}")).into());
        }
        Ok(())
    }
}

/// The guest of a pod.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) netns: Netns,
    port: Process,
    boots: usize,
    dir: PathBuf,
    enter: PathBuf,
}

impl Guest {
    /// A guest that is not booted yet: its NIC comes with the VMM.
    pub(crate) fn new(pod: &Pod) -> Result<Self> {
        let netns = Netns::new("guest")?;
        for (key, value) in [
            ("accept_dad", "0"),
            ("router_solicitation_delay", "0"),
            ("router_solicitation_interval", "1"),
        ] {
            netns.set_sysctl(&format!("net.ipv6.conf.default.{key}"), value)?;
        }
        let dir = pod.path("guest");
        for sub in ["etc", "run", "lib/dhcp", "lib/dhcpcd"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        etc(&dir.join("etc"))?;
        let port = pod.port();
        let port = port.to_str().context("path is not UTF-8")?;
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", netns.name()])
            .arg(&pod.programs().standin);
        command.args(["guest-port", "--listen", port, "--tap", "eth0"]);
        let port = Process::spawn("guest port", &mut command)?;
        port.wait_for("listening eth0", 1, WAIT)?;
        Ok(Self {
            netns,
            port,
            boots: 0,
            dir,
            enter: pod.programs().enter.clone(),
        })
    }

    /// Waits until the VMM has plugged in the NIC, once more than last time.
    pub(crate) fn booted(&mut self) -> Result<()> {
        self.boots += 1;
        self.port.wait_for("up eth0", self.boots, WAIT)?;
        Ok(())
    }

    /// Waits for the NIC, no longer than the launcher lives: the message of a failure is the launcher's.
    pub(crate) fn booted_by(&mut self, hawser: &Process) -> Result<()> {
        self.boots += 1;
        until("the guest's NIC", WAIT, || {
            let up = self.port.has_said("up eth0", self.boots);
            ensure!(up || !hawser.has_ended(), "hawser ended");
            Ok(up.then_some(()))
        })
        .map_err(|error| error.context(format!("hawser said:\n{}", hawser.transcript())))
    }

    /// Addresses and routes as DHCP and RA would give them, for tests of what comes after.
    pub(crate) fn configure(&self) -> Result<()> {
        self.netns.ip(&format!("address add {GUEST4}/24 dev eth0"))?;
        self.netns.ip(&format!("route add default via {GATEWAY4}"))?;
        self.netns.ip(&format!("address add {GUEST6}/120 dev eth0"))?;
        until("a default route by RA", WAIT, || {
            Ok(self.default6()?.contains("fe80::").then_some(()))
        })
    }

    /// The same for IPv4 alone.
    pub(crate) fn configure4(&self) -> Result<()> {
        self.netns.ip(&format!("address add {GUEST4}/24 dev eth0"))?;
        self.netns.ip(&format!("route add default via {GATEWAY4}"))?;
        Ok(())
    }

    pub(crate) fn default6(&self) -> Result<String> {
        self.netns.ip("-6 route show default")
    }

    /// Puts a frame on the wire, whatever it says.
    pub(crate) fn send_frame(&mut self, frame: &[u8]) -> Result<()> {
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        self.port.tell(&format!("frame {hex}"))
    }

    /// Prints a line on the guest's console.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        self.port.tell(&format!("console {line}"))
    }

    fn entry(&self) -> Entry {
        Entry {
            netns: self.netns.path(),
            binds: vec![
                (self.dir.join("etc"), "/etc".into()),
                (self.dir.join("run"), "/run".into()),
                (self.dir.join("lib"), "/var/lib".into()),
            ],
            ..Entry::default()
        }
    }

    /// A program in the guest.
    pub(crate) fn command(&self, program: &str, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(&self.enter);
        command
            .arg(serde_json::to_string(&self.entry())?)
            .arg(program)
            .args(args);
        Ok(command)
    }

    pub(crate) fn start(&self, program: &str, args: &[&str]) -> Result<Process> {
        Process::spawn(program, &mut self.command(program, args)?)
    }

    /// Starts a client for both families in the foreground. It goes on until the returned processes are dropped.
    pub(crate) fn client(&self, client: Client) -> Result<Vec<Process>> {
        client.require()?;
        Ok(match client {
            Client::Udhcpc => vec![self.udhcpc(&[])?],
            Client::Dhclient => vec![self.dhclient("-4", &[])?, self.dhclient("-6", &[])?],
            Client::Dhcpcd => vec![self.dhcpcd(&[])?],
            Client::Networkd => vec![self.networkd()?],
        })
    }

    /// The same, and only for `family` (-4 or -6) where the client has a process for each. dhclient's two would each
    /// replace the other's name servers.
    pub(crate) fn client_of(&self, client: Client, family: &str) -> Result<Vec<Process>> {
        match client {
            Client::Dhclient => {
                client.require()?;
                Ok(vec![self.dhclient(family, &[])?])
            }
            _ => self.client(client),
        }
    }

    pub(crate) fn udhcpc(&self, more: &[&str]) -> Result<Process> {
        let mut args = vec![
            "-f", "-i", "eth0", "-O", "mtu", "-O", "search", "-t", "10", "-T", "1",
        ];
        args.extend(more);
        self.start(Client::Udhcpc.program().0, &args)
    }

    pub(crate) fn dhclient(&self, family: &str, more: &[&str]) -> Result<Process> {
        let (leases, pid) = (
            format!("/run/leases{family}"),
            format!("/run/dhclient{family}.pid"),
        );
        let mut args = vec![family, "-d", "-v", "-lf", &leases, "-pf", &pid];
        args.extend(more);
        args.push("eth0");
        self.start(Client::Dhclient.program().0, &args)
    }

    pub(crate) fn dhcpcd(&self, more: &[&str]) -> Result<Process> {
        let mut args = vec!["--nobackground", "--debug", "--noarp"];
        args.extend(more);
        args.push("eth0");
        self.start(Client::Dhcpcd.program().0, &args)
    }

    fn networkd(&self) -> Result<Process> {
        let run = self.dir.join("run/systemd");
        for sub in ["netif/links", "netif/leases", "netif/lldp", "network"] {
            fs::create_dir_all(run.join(sub))?;
        }
        // It gives its privileges to this user, who must own what it writes.
        output(
            Command::new("chown")
                .arg("-R")
                .arg("systemd-network")
                .arg(run.join("netif")),
        )?;
        fs::write(
            run.join("network/eth0.network"),
            "[Match]\nName=eth0\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\n[DHCPv4]\nUseMTU=yes\nUseDomains=yes\n\
             [DHCPv6]\nUseDomains=yes\n[IPv6AcceptRA]\nUseDomains=yes\n",
        )?;
        let mut command = self.command(Client::Networkd.program().0, &[])?;
        command
            .env("SYSTEMD_LOG_LEVEL", "debug")
            .env("SYSTEMD_LOG_TARGET", "console");
        Process::spawn("systemd-networkd", &mut command)
    }

    /// What the client wrote into its resolv.conf.
    pub(crate) fn resolv_conf(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir.join("etc/resolv.conf")).unwrap_or_default())
    }

    /// A file that a client wrote, by its path as the client sees it.
    pub(crate) fn file(&self, path: &str) -> Result<String> {
        let path = self.dir.join(path.trim_start_matches('/'));
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    pub(crate) fn write(&self, path: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.dir.join(path.trim_start_matches('/')), text)?)
    }

    pub(crate) fn has_address(&self, address: &str) -> Result<bool> {
        let text = self.netns.ip("-o address show dev eth0 -tentative")?;
        Ok(text.split_whitespace().any(|word| word == address))
    }

    /// Waits for an address with its prefix length, `10.0.2.2/24`.
    pub(crate) fn wait_address(&self, address: &str) -> Result<()> {
        until(&format!("address {address}"), WAIT, || {
            Ok(self.has_address(address)?.then_some(()))
        })
    }
}

/// A copy of as much of /etc as the clients and their scripts read.
fn etc(to: &Path) -> Result<()> {
    for name in [
        "passwd",
        "group",
        "shadow",
        "nsswitch.conf",
        "protocols",
        "services",
        "ld.so.cache",
        "dhcp",
        "dhcpcd.conf",
        "udhcpc",
        "alternatives",
        "hosts",
        "machine-id",
        "localtime",
    ] {
        let from = Path::new("/etc").join(name);
        if from.exists() {
            output(Command::new("cp").arg("-a").arg(&from).arg(to))?;
        }
    }
    let machine_id = to.join("machine-id");
    if fs::read_to_string(&machine_id).unwrap_or_default().trim().len() != 32 {
        // networkd derives its DUID from it.
        fs::write(machine_id, "0123456789abcdef0123456789abcdef\n")?;
    }
    fs::create_dir_all(to.join("systemd"))?;
    // dhclient's script looks whether the root file system is on the network.
    fs::write(to.join("fstab"), "")?;
    Ok(fs::write(to.join("resolv.conf"), "")?)
}

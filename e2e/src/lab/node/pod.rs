//! Pods: a sandbox container that holds the network namespace, and launcher containers that come and go in it, as a
//! kubelet has them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use super::console::Console;
use super::context::{Lab, PAYLOAD, RESULTS};
use super::pace;
use super::prepare::{GUEST_IMAGE, LAUNCHER, NETWORK, SANDBOX, podman};
use crate::lab::process::output;
use crate::schema;

/// What a pod allows its launcher.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Privileges<'a> {
    pub(crate) user: &'a str,
    pub(crate) capabilities: &'a [&'a str],
}

/// Root with what it takes to wire the namespace and to become somebody else afterwards.
pub(crate) const ROOT: Privileges<'_> = Privileges {
    user: "0",
    capabilities: &["NET_ADMIN", "SETUID", "SETGID", "SETPCAP", "CHOWN", "KILL"],
};
/// KubeVirt's user, with the one capability.
pub(crate) const NET_ADMIN_ONLY: Privileges<'_> = Privileges {
    user: "107:107",
    capabilities: &["NET_ADMIN"],
};
/// KubeVirt's user, with none.
pub(crate) const UNPRIVILEGED: Privileges<'_> = Privileges {
    user: "107:107",
    capabilities: &[],
};

/// What a launcher container has besides what all have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    /// Options of `podman run`.
    pub(crate) podman: Vec<String>,
    /// Options of the launcher's.
    pub(crate) hawser: Vec<String>,
}

/// Lets a pod forward IPv6, as its securityContext would say.
pub(crate) const FORWARD_IPV6: &str = "net.ipv6.conf.all.forwarding=1";

/// A pod; gone when dropped.
#[derive(Debug)]
pub(crate) struct Pod<'a> {
    lab: &'a Lab,
    name: String,
    dir: PathBuf,
    pid: String,
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ipv6: Ipv6Addr,
}

impl<'a> Pod<'a> {
    pub(crate) fn create(lab: &'a Lab, name: &str, sysctls: &[&str]) -> Result<Self> {
        let dir = Path::new("/var/lib/lab/pods").join(name);
        fs::create_dir_all(dir.join("state"))?;
        // Open to every user, as an emptyDir is: root without DAC_OVERRIDE is one among others.
        fs::set_permissions(dir.join("state"), fs::Permissions::from_mode(0o777))?;
        let mut run = podman();
        run.args([
            "run",
            "--detach",
            "--name",
            name,
            "--hostname",
            name,
            "--network",
            NETWORK,
        ]);
        for sysctl in sysctls {
            run.args(["--sysctl", sysctl]);
        }
        output(run.args([SANDBOX, "/bin/sleep", "infinity"])).context("cannot make the pod")?;
        // From here on dropping it cleans up.
        let mut pod = Self {
            lab,
            name: name.to_owned(),
            dir,
            pid: String::new(),
            ipv4: Ipv4Addr::UNSPECIFIED,
            ipv6: Ipv6Addr::UNSPECIFIED,
        };
        let format = format!(
            "{{{{.State.Pid}}}} {{{{with index .NetworkSettings.Networks \"{NETWORK}\"}}}}{{{{.IPAddress}}}} {{{{.GlobalIPv6Address}}}}{{{{end}}}}"
        );
        let inspected = output(podman().args(["inspect", "--format", &format, name]))?;
        let mut words = inspected.split_whitespace();
        pod.pid = words.next().context("the pod has no process")?.to_owned();
        pod.ipv4 = words.next().context("the pod has no IPv4 address")?.parse()?;
        pod.ipv6 = words.next().context("the pod has no IPv6 address")?.parse()?;
        Ok(pod)
    }

    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        [self.ipv4.into(), self.ipv6.into()]
    }

    /// The launcher's state directory, as the node sees it. Images and volumes are below it by default.
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where its files are on the node.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The pod's network namespace, for whoever enters it by path.
    pub(crate) fn namespace(&self) -> PathBuf {
        Path::new("/proc").join(&self.pid).join("ns/net")
    }

    /// A command line that is to be run in the pod's network namespace.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid, "-n"]);
        command
    }

    /// Runs a command in the pod's network namespace; words are split at blanks.
    pub(crate) fn run(&self, command: &str) -> Result<String> {
        output(self.command().args(command.split(' ')))
    }

    /// Writes the manifest that the launcher containers of this pod read.
    pub(crate) fn set_manifest(&self, vmi: &serde_json::Value) -> Result<()> {
        schema::hold(&Path::new(PAYLOAD).join("build/out/usr/bin/hawser"), vmi, None)?;
        Ok(fs::write(
            self.dir.join("vmi.json"),
            serde_json::to_vec_pretty(vmi)?,
        )?)
    }

    /// Writes one more file of the pod's, for a launcher container to mount.
    pub(crate) fn write(&self, name: &str, content: &serde_json::Value) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::write(&path, serde_json::to_vec(content)?)?;
        Ok(path)
    }

    /// Starts a launcher container. `subcommand` is `run`, `setup` and so on.
    pub(crate) fn launch(&self, subcommand: &str, privileges: Privileges<'_>) -> Result<Launcher<'_>> {
        self.launch_with(subcommand, privileges, &Extra::default())
    }

    /// The same under a seccomp profile that allows no user namespace, as the default ones of some runtimes.
    pub(crate) fn launch_confined(
        &self,
        subcommand: &str,
        privileges: Privileges<'_>,
    ) -> Result<Launcher<'_>> {
        let path = self.dir.join("seccomp.json");
        let refused = serde_json::json!({"names": ["unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1});
        let profile = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refused]});
        fs::write(&path, profile.to_string())?;
        let option = format!("seccomp={}", path.display());
        let extra = Extra {
            podman: vec!["--security-opt".to_owned(), option],
            ..Extra::default()
        };
        self.launch_with(subcommand, privileges, &extra)
    }

    /// A directory of this pod that its launchers see as /certificates.
    pub(crate) fn certificates(&self) -> Result<PathBuf> {
        let dir = self.dir.join("certificates");
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    pub(crate) fn launch_with(
        &self,
        subcommand: &str,
        privileges: Privileges<'_>,
        extra: &Extra,
    ) -> Result<Launcher<'_>> {
        let container = format!("{}-{subcommand}", self.name);
        let mut run = podman();
        run.args([
            "run",
            "--rm",
            "--name",
            &container,
            "--network",
            &format!("container:{}", self.name),
        ]);
        run.args([
            "--device",
            "/dev/kvm",
            "--device",
            "/dev/net/tun",
            "--user",
            privileges.user,
            "--cap-drop",
            "all",
        ]);
        for capability in privileges.capabilities {
            run.args(["--cap-add", capability]);
        }
        run.args([
            "--read-only",
            "--tmpfs",
            "/tmp",
            "--volume",
            &format!("{}:/run/hawser", self.dir.join("state").display()),
        ]);
        run.args([
            "--volume",
            &format!("{}:/vmi.json:ro", self.dir.join("vmi.json").display()),
        ]);
        run.args(["--volume", &format!("{GUEST_IMAGE}:/guest:ro")]);
        run.args(&extra.podman);
        run.args([
            "--volume",
            &format!("{}:/certificates:ro", self.certificates()?.display()),
        ]);
        run.args([
            LAUNCHER,
            subcommand,
            "--vmi",
            "/vmi.json",
            "--state-dir",
            "/run/hawser",
        ]);
        // `setup` starts no guest, and takes the option nevertheless: a convenience for pod specs.
        run.args(["--image", "kernel-boot=/guest"]);
        run.args(&extra.hawser);
        let mut child = run
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start podman")?;
        let console = Console::default();
        let log = Path::new(RESULTS).join(format!("{container}.log"));
        if let Some(stdout) = child.stdout.take() {
            console.follow(stdout, &log, self.lab.narrator())?;
        }
        if let Some(stderr) = child.stderr.take() {
            console.follow(stderr, &log, self.lab.narrator())?;
        }
        Ok(Launcher {
            pod: self,
            container,
            child,
            console,
        })
    }

    /// The one process of this name in the pod's network namespace.
    pub(crate) fn process(&self, name: &str) -> Result<u32> {
        let namespace = fs::read_link(format!("/proc/{}/ns/net", self.pid)).context("the pod is gone")?;
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let pid = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            // Processes come and go meanwhile. passt.avx2 is passt where the processor has that.
            let is = fs::read_to_string(path.join("comm"))
                .is_ok_and(|comm| comm.trim().split('.').next() == Some(name));
            if let Some(pid) = pid
                && is
                && fs::read_link(path.join("ns/net")).is_ok_and(|other| other == namespace)
            {
                found.push(pid);
            }
        }
        match found.as_slice() {
            [pid] => Ok(*pid),
            other => bail!(
                "{} processes {name} in the pod {}: {other:?}",
                other.len(),
                self.name
            ),
        }
    }

    /// Runs `work` in a thread of its own that has entered the pod's network namespace.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(self.namespace()).context("the pod is gone")?;
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
                    work()
                })
                .join()
                .map_err(|_| anyhow!("panicked inside the pod's namespace"))?
        })
    }

    /// Everything that a launcher might leave behind in the namespace, as text to compare.
    pub(crate) fn snapshot(&self) -> Result<String> {
        let mut snapshot = String::new();
        for command in [
            "ip -d link",
            "ip addr",
            "ip -4 route show table all",
            "ip -6 route show table all",
            "ip rule",
            "ip -6 rule",
            "ip neigh show nud permanent",
            "nft list ruleset",
            "sysctl -a --pattern ^net\\.ipv[46]\\.conf\\..*\\.(forwarding|accept_ra|route_localnet|arp_ignore|proxy_arp|rp_filter)$",
            "sysctl net.ipv4.ip_forward",
            "sysctl net.ipv4.ping_group_range",
            "sysctl net.ipv4.ip_unprivileged_port_start",
        ] {
            let text = self.run(command)?;
            snapshot.push_str(&format!("# {command}\n"));
            for line in text.lines().map(without_lifetimes) {
                snapshot.push_str(&line);
                snapshot.push('\n');
            }
        }
        Ok(snapshot)
    }
}

/// Remaining lifetimes and counters differ from one look to the next.
fn without_lifetimes(line: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    let mut skip_next = false;
    for word in line.split_whitespace() {
        if skip_next {
            skip_next = false;
        } else if matches!(word, "valid_lft" | "preferred_lft" | "expires") {
            skip_next = true;
        } else {
            words.push(word);
        }
    }
    words.join(" ")
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        // Takes the launchers in the pod's namespace along.
        if let Err(error) = output(podman().args(["rm", "--force", "--time=0", "--depend", &self.name])) {
            eprintln!("node: cannot remove the pod {}: {error:#}", self.name);
        }
    }
}

/// A launcher container.
#[derive(Debug)]
pub(crate) struct Launcher<'a> {
    pod: &'a Pod<'a>,
    container: String,
    child: Child,
    /// The guest's console and the launcher's log.
    pub(crate) console: Console,
}

impl<'a> Launcher<'a> {
    pub(crate) fn pod(&self) -> &'a Pod<'a> {
        self.pod
    }

    pub(crate) fn signal(&self, signal: &str) -> Result<()> {
        output(podman().args(["kill", "--signal", signal, &self.container])).map(drop)
    }

    /// A command in the launcher's container, as `kubectl exec` runs it; what it says goes to `Console`.
    pub(crate) fn exec(&self, command: &[impl AsRef<OsStr>]) -> Result<Executed> {
        self.exec_typing(command, "")
    }

    /// The same, with this on its standard input.
    pub(crate) fn exec_typing(&self, command: &[impl AsRef<OsStr>], typed: &str) -> Result<Executed> {
        let mut child = podman()
            .args(["exec", "--interactive", &self.container])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start podman exec")?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that has ended already reads nothing.
            let _ = stdin.write_all(typed.as_bytes());
        }
        let console = Console::default();
        let log = Path::new(RESULTS).join(format!("{}-exec.log", self.container));
        if let Some(stdout) = child.stdout.take() {
            console.follow(stdout, &log, self.pod.lab.narrator())?;
        }
        if let Some(stderr) = child.stderr.take() {
            console.follow(stderr, &log, self.pod.lab.narrator())?;
        }
        Ok(Executed { child, console })
    }

    /// The exit code, when it ends by itself within `deadline`.
    pub(crate) fn exit_code(&mut self, deadline: Duration) -> Result<i32> {
        let end = pace::deadline(deadline);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return code(status);
            }
            if Instant::now() > end {
                let _ = self.signal("KILL");
                bail!(
                    "the launcher of {} still ran after {} s",
                    self.pod.name,
                    pace::allowed(deadline).as_secs()
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The launcher must end with `wanted`; otherwise the error shows what it said last.
    pub(crate) fn expect_exit(&mut self, wanted: i32, deadline: Duration) -> Result<()> {
        let found = self.exit_code(deadline)?;
        if found != wanted {
            bail!(
                "the launcher ended with {found}, not {wanted}: {}",
                self.console.last(6)
            );
        }
        Ok(())
    }
}

fn code(status: ExitStatus) -> Result<i32> {
    status
        .code()
        .with_context(|| format!("podman was killed: {status}"))
}

/// A command in a launcher's container.
#[derive(Debug)]
pub(crate) struct Executed {
    child: Child,
    pub(crate) console: Console,
}

impl Executed {
    /// Its exit code, when it ends within `deadline`.
    pub(crate) fn exit_code(&mut self, deadline: Duration) -> Result<i32> {
        self.console.wait_for_end(deadline)?;
        code(self.child.wait()?)
    }

    pub(crate) fn expect_exit(&mut self, wanted: i32, deadline: Duration) -> Result<()> {
        let found = self.exit_code(deadline)?;
        if found != wanted {
            bail!("it ended with {found}, not {wanted}: {}", self.console.last(6));
        }
        Ok(())
    }
}

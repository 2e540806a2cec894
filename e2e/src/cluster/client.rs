//! Pods that are no guests: they reach guests, and guests reach them.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::api::{LABEL, Namespace, until};
use super::guest::PORT;
use crate::process::Process;

/// What the guest's web server answers with (images/guest/init).
const GREETING: &str = "hello from the guest";
/// What a client runs: at [`PORT`] it tells everybody the address that they come from.
const SERVER: &str = r#"mkdir -p /tmp/cgi-bin
cat > /tmp/cgi-bin/who << 'END'
#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
echo "$REMOTE_ADDR"
END
chmod 755 /tmp/cgi-bin/who
exec httpd -f -p 8080 -h /tmp"#;

/// Such a pod.
#[derive(Debug)]
pub(super) struct Client<'a> {
    namespace: &'a Namespace<'a>,
    name: String,
}

impl<'a> Client<'a> {
    pub(super) fn start(namespace: &'a Namespace<'a>, name: &str) -> Result<Self> {
        Self::start_on(namespace, name, None)
    }

    /// On this node, where one is named.
    pub(super) fn start_on(namespace: &'a Namespace<'a>, name: &str, node: Option<&str>) -> Result<Self> {
        let selector = node.map(|node| json!({"kubernetes.io/hostname": node}));
        namespace.apply(&[json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {LABEL: name}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "nodeSelector": selector,
                // As every namespace allows it.
                "securityContext": {
                    "runAsNonRoot": true,
                    "runAsUser": 65534,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": "client",
                    "image": namespace.cluster.images.client,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c", SERVER],
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                }],
            },
        })])?;
        namespace.wait_until_running(name)?;
        Ok(Self {
            namespace,
            name: name.to_owned(),
        })
    }

    pub(super) fn addresses(&self) -> Result<[IpAddr; 2]> {
        self.namespace.addresses(&self.name)
    }

    /// Has the guest at `guest` ask this client, at `own`, which address it comes from.
    pub(super) fn seen(&self, guest: IpAddr, own: IpAddr) -> Result<IpAddr> {
        let script = format!("wget -q -T 10 -O - http://{}/cgi-bin/who", host(own, PORT));
        let seen = self.execute(guest, &script).context("from the guest to a pod")?;
        let seen = seen.trim().trim_matches(['[', ']']);
        let address: IpAddr = seen.parse().with_context(|| format!("no address: {seen:?}"))?;
        // Its socket is one of both families.
        Ok(address.to_canonical())
    }

    /// Fetches the guest's page.
    pub(super) fn greet(&self, address: IpAddr, port: u16) -> Result<()> {
        let page = self.fetch(&[
            "-q",
            "-T",
            "5",
            "-O",
            "-",
            &format!("http://{}/", host(address, port)),
        ])?;
        ensure!(
            page.trim() == GREETING,
            "{address} port {port} answered, but not as the guest: {page:?}"
        );
        Ok(())
    }

    /// The same until `limit`: the guest's server starts after its addresses are there.
    pub(super) fn greet_within(&self, address: IpAddr, port: u16, limit: Duration) -> Result<()> {
        let mut last = None;
        until("the guest answers", limit, || match self.greet(address, port) {
            Ok(()) => Ok(Some(())),
            Err(error) => {
                last = Some(error);
                Ok(None)
            }
        })
        .map_err(|error| last.unwrap_or(error))
    }

    /// Runs a shell script in the guest at `address`; its output, if it succeeded.
    pub(super) fn execute(&self, address: IpAddr, script: &str) -> Result<String> {
        let url = format!("http://{}/cgi-bin/run", host(address, PORT));
        let body = self.fetch(&["-q", "-T", "30", "-O", "-", "--post-data", script, &url])?;
        let (printed, status) = body
            .trim_end()
            .rsplit_once("status ")
            .context("the guest did not finish the script")?;
        ensure!(
            status == "0",
            "in the guest: {script}: status {status}: {}",
            printed.trim()
        );
        Ok(printed.to_owned())
    }

    /// Seconds that the guest has been up.
    pub(super) fn uptime(&self, address: IpAddr) -> Result<f64> {
        let text = self.execute(address, "cat /proc/uptime")?;
        let seconds = text.split_whitespace().next().context("no uptime")?;
        Ok(seconds.parse()?)
    }

    /// A request to the guest at `address` that takes so long to be answered, on a connection that stays open for it.
    pub(super) fn long_request(&self, address: IpAddr, seconds: u32) -> Result<Process> {
        let url = format!("http://{}/cgi-bin/run", host(address, PORT));
        let script = format!("sleep {seconds}; echo answered");
        let timeout = (2 * seconds).to_string();
        let words = [
            "exec",
            &self.name,
            "--",
            "wget",
            "-q",
            "-T",
            &timeout,
            "-O",
            "-",
            "--post-data",
            &script,
            &url,
        ];
        self.namespace.follow(&words)
    }

    fn fetch(&self, arguments: &[&str]) -> Result<String> {
        self.namespace.exec(&self.name, &[&["wget"], arguments].concat())
    }
}

fn host(address: IpAddr, port: u16) -> String {
    if address.is_ipv6() {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

//! `kubectl hawser ssh`: the ssh program of whoever calls, and a connection to the guest's virtio socket through `kubectl exec`
//! (`hawser vsock`). Neither the guest's network nor the launcher's image has a part in it.

use std::io;
use std::process::{Command, ExitCode};

use crate::failure::Failure;
use crate::kubectl::Kubectl;
use crate::launcher::within;
use crate::pod::Pod;
use crate::thin::{code, pod_of_guest};

/// sshd's, over the virtio socket as over TCP (systemd-ssh-generator(8)).
const PORT: &str = "22";

pub(crate) fn ssh(
    kubectl: &Kubectl,
    guest: &str,
    program: &str,
    arguments: &[String],
) -> Result<ExitCode, Failure> {
    let name = guest.rsplit_once('@').map_or(guest, |(_, name)| name);
    let pod = pod_of_guest(kubectl, name)?;
    let status = Command::new(program)
        .args(options(kubectl, &pod, name))
        .arg(guest)
        .args(arguments)
        .status()
        .map_err(|error| cannot_start(program, &error))?;
    Ok(code(status))
}

fn cannot_start(program: &str, error: &io::Error) -> Failure {
    Failure::Refused(format!(
        "cannot start {program}: {error}; name an ssh program with --ssh"
    ))
}

/// ssh runs the command with a shell, and first replaces what begins with `%` (ssh_config(5)). A guest's host key is known by its
/// name and its namespace: names are used again in other namespaces.
fn options(kubectl: &Kubectl, pod: &Pod, name: &str) -> Vec<String> {
    let mut words = within(&pod.name, &["vsock", PORT]);
    words.insert(1, "--stdin");
    let command: Vec<String> = kubectl.words(&words).iter().map(|word| quoted(word)).collect();
    let command = command.join(" ").replace('%', "%%");
    vec![
        "-o".to_owned(),
        format!("ProxyCommand={command}"),
        "-o".to_owned(),
        format!("HostKeyAlias={name}.{}", pod.namespace),
    ]
}

/// One word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:@,+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ssh_is_given_one_command_that_its_shell_reads_as_it_was_meant() {
        let flags = vec![
            "--namespace=vms".to_owned(),
            "--kubeconfig=/home/o'neil/100% mine".to_owned(),
        ];
        let kubectl = Kubectl::new("kubectl".to_owned(), flags);
        let pod = json!({
            "metadata": {"name": "web", "namespace": "vms", "uid": "1"},
            "status": {"phase": "Running"},
        });
        let options = options(&kubectl, &Pod::of(pod).unwrap(), "web");
        assert_eq!(
            options,
            [
                "-o",
                r"ProxyCommand=kubectl --namespace=vms '--kubeconfig=/home/o'\''neil/100%% mine' exec --stdin web --container guest -- hawser vsock 22",
                "-o",
                "HostKeyAlias=web.vms"
            ]
        );
        // As a shell has it, once ssh has made one percent sign of two.
        let command = options[1].trim_start_matches("ProxyCommand=").replace("%%", "%");
        let script = format!("printf '%s\\n' {command}");
        let printed = Command::new("sh").args(["-c", &script]).output().unwrap();
        let printed = String::from_utf8(printed.stdout).unwrap();
        let words: Vec<&str> = printed.lines().collect();
        assert_eq!(words[2], "--kubeconfig=/home/o'neil/100% mine");
        assert_eq!(words.last(), Some(&"22"));
    }
}

//! Volumes as a pod may have them, good and bad.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use clap::Parser;
use nix::sys::stat::Mode;

use nix::fcntl::{FcntlArg, fcntl};

use super::*;
use crate::cli::{Cli, Command};

/// A pod's state directory, whose volumes and images are at their default places.
struct Pod(tempfile::TempDir);

impl Pod {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn dir(&self, path: &str) -> PathBuf {
        let dir = self.0.path().join(path);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn find_with(&self, source: &str, disk: &str, options: &[&str]) -> Result<Drive, Failure> {
        let manifest = format!(
            "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: web}}, spec: {{
            domain: {{memory: {{guest: 256Mi}}, devices: {{disks: [{{name: a, {disk}}}]}}}},
            volumes: [{{name: a, {source}}}]}}}}"
        );
        let guest = crate::spec::load(&manifest).unwrap().spec;
        let state = self.0.path().to_str().unwrap();
        let line = ["hawser", "run", "--state-dir", state];
        let Command::Run(args) = Cli::try_parse_from(line.iter().chain(options)).unwrap().command else {
            panic!()
        };
        let mut drives = find(
            &args.pod.places(),
            &guest,
            &self.0.path().join("vmm"),
            locks::Users::None,
        );
        assert_eq!(drives.len(), 1);
        drives.remove(0)
    }

    fn find(&self, source: &str) -> Result<Drive, Failure> {
        self.find_with(source, "disk: {}", &[])
    }

    /// The one error, which names the field and the place, and says what to do.
    fn refused(&self, source: &str, place: &str, why: &str) {
        let failure = self.find(source).unwrap_err();
        assert_eq!(failure.code(), ExitCode::PodUnfit);
        let text = failure.to_string();
        let field = source.split(':').next().unwrap();
        let beginning = format!(
            "hawser: spec.volumes[0].{field}: {}/{place}: {why}",
            self.0.path().display()
        );
        assert!(
            text.starts_with(&beginning) && text.contains("\n  remedy: "),
            "{text}\nexpected {beginning}"
        );
    }
}

const CONTAINER: &str = "containerDisk: {image: i}";
const CLAIM: &str = "persistentVolumeClaim: {claimName: c}";
const HOST: &str = "hostDisk: {path: /data/h.img, type: Disk}";
const CREATE: &str = "hostDisk: {path: /data/h.img, type: DiskOrCreate, capacity: 1Mi}";

fn sized(path: &Path, bytes: u64) {
    File::create(path).unwrap().set_len(bytes).unwrap();
}

/// 1 GiB without a base.
fn qcow2() -> Vec<u8> {
    let mut image = qcow2::overlay(1 << 30, Path::new("/b"), "raw").unwrap();
    image[8..20].fill(0);
    image
}

#[test]
fn a_container_disk_is_the_one_file_and_gets_an_overlay() {
    let pod = Pod::new();
    let disk = pod.dir("images/a/disk");
    sized(&disk.join("any.name"), 1 << 20);
    let drive = pod.find(CONTAINER).unwrap();
    assert_eq!(drive.base.unwrap(), disk.join("any.name"));
    assert_eq!(
        (drive.image_type, drive.path),
        (ImageType::Qcow2, pod.0.path().join("vmm/disks/a.qcow2"))
    );
    let read_only = pod.find_with(CONTAINER, "cdrom: {}", &[]).unwrap();
    assert_eq!(
        (read_only.image_type, read_only.path, read_only.make),
        (ImageType::Raw, disk.join("any.name"), None)
    );
    fs::write(disk.join("any.name"), qcow2()).unwrap();
    let Some(Make::Image(overlay)) = pod.find(CONTAINER).unwrap().make else {
        panic!()
    };
    // The overlay says what its base is, and has its base's size.
    assert!(overlay.windows(5).any(|window| window == b"qcow2"));
    assert_eq!(overlay[24..32], (1_u64 << 30).to_be_bytes());
}

#[test]
fn a_container_disk_by_path_and_in_another_place() {
    let pod = Pod::new();
    let elsewhere = pod.dir("elsewhere/deep");
    sized(&elsewhere.join("x.img"), 512);
    let option = format!("a={}", pod.0.path().join("elsewhere").display());
    let source = "containerDisk: {image: i, path: /deep/x.img}";
    let drive = pod.find_with(source, "disk: {}", &["--image", &option]).unwrap();
    assert_eq!(drive.base.unwrap(), elsewhere.join("x.img"));
}

#[test]
fn bad_container_disks() {
    let pod = Pod::new();
    let refused = |why: &str| pod.refused(CONTAINER, "images/a", why);
    refused("No such file or directory");
    let disk = pod.dir("images/a/disk");
    refused("one file is expected, found none");
    let file = disk.join("d");
    for (target, why) in [
        ("/etc/passwd", "it leads out"),
        ("../../../../x", "it leads out"),
        ("d", "it leads out"),
    ] {
        symlink(target, &file).unwrap();
        refused(why);
        fs::remove_file(&file).unwrap();
    }
    let socket = UnixListener::bind(&file).unwrap();
    refused("not a regular file");
    drop(socket);
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, Mode::S_IRWXU).unwrap();
    refused("not a regular file");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    refused("a directory, not a regular file");
    fs::remove_dir(&file).unwrap();
    let content: [(&[u8], &str); 8] = [
        (b"", "size 0"),
        (b"x", "1 bytes, which is not a multiple of 512"),
        (&qcow2()[..200], "a qcow2 image that is cut off"),
        (&qcow2()[..60], "a qcow2 image that is cut off"),
        (
            &[&qcow2()[..19], &[1], &qcow2()[20..]].concat(),
            "a qcow2 image with a backing file, which is never followed",
        ),
        (
            &[&qcow2()[..79], &[4], &qcow2()[80..]].concat(),
            "a qcow2 image with its data in another file",
        ),
        (
            b"vhdxfile",
            "a VHDX image, where a raw or a qcow2 one is expected",
        ),
        (&[&[0; 1024], &b"conectix"[..], &[0; 504]].concat(), "a VHD image"),
    ];
    for (bytes, why) in content {
        fs::write(&file, bytes).unwrap();
        refused(why);
    }
    sized(&disk.join("e"), 512);
    refused("one file is expected, found d and e");
}

#[test]
fn a_claim_is_raw_whatever_its_guest_has_written() {
    let pod = Pod::new();
    pod.refused(CLAIM, "volumes/a", "No such file or directory");
    let claim = pod.dir("volumes/a");
    pod.refused(CLAIM, "volumes/a", "No such file or directory");
    let file = claim.join("disk.img");
    sized(&file, 1 << 20);
    let drive = pod.find(CLAIM).unwrap();
    assert_eq!(
        (&drive.path, drive.image_type, drive.make),
        (&file, ImageType::Raw, None)
    );
    fs::write(&file, qcow2()).unwrap();
    for source in [
        CLAIM,
        "dataVolume: {name: d}",
        "ephemeral: {persistentVolumeClaim: {claimName: c}}",
    ] {
        pod.refused(source, "volumes/a", "a qcow2 image, where a raw one is expected");
    }
    fs::rename(&file, claim.join("other")).unwrap();
    symlink("other", &file).unwrap();
    pod.refused(CLAIM, "volumes/a", "it is a link, and none is followed here");
    let option = format!("a={}", claim.join("other").display());
    let failure = pod
        .find_with(CLAIM, "disk: {}", &["--volume", &option])
        .unwrap_err()
        .to_string();
    assert!(
        failure.contains("neither a directory nor a block device"),
        "{failure}"
    );
}

#[test]
fn an_ephemeral_claim_gets_an_overlay_that_calls_it_raw() {
    let pod = Pod::new();
    let file = pod.dir("volumes/a").join("disk.img");
    sized(&file, 1 << 20);
    let drive = pod
        .find("ephemeral: {persistentVolumeClaim: {claimName: c}}")
        .unwrap();
    assert_eq!(drive.base, Some(file));
    let Some(Make::Image(overlay)) = drive.make else {
        panic!()
    };
    assert_eq!(
        overlay[104..115],
        [0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 3, b'r', b'a', b'w']
    );
}

#[test]
fn a_disk_that_another_process_uses() {
    let pod = Pod::new();
    let file = pod.dir("volumes/a").join("disk.img");
    sized(&file, 1 << 20);
    let other = File::options().read(true).write(true).open(&file).unwrap();
    let mut lock = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as nix::libc::c_short,
        l_whence: nix::libc::SEEK_SET as nix::libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&other, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    pod.refused(CLAIM, "volumes/a", "another process is using it as a disk");
    lock.l_type = nix::libc::F_RDLCK as nix::libc::c_short;
    fcntl(&other, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    pod.refused(CLAIM, "volumes/a", "another process is using it as a disk");
    assert!(
        pod.find_with(CLAIM, "disk: {readonly: true}", &[]).is_ok(),
        "readers do not mind each other"
    );
}

#[test]
fn a_host_disk_is_there_or_is_made() {
    let pod = Pod::new();
    pod.refused(HOST, "volumes/a", "No such file or directory");
    pod.refused(CREATE, "volumes/a", "No such file or directory");
    let host = pod.dir("volumes/a");
    pod.refused(HOST, "volumes/a", "No such file or directory");
    let file = host.join("h.img");
    let drive = pod.find(CREATE).unwrap();
    assert_eq!((&drive.path, drive.make), (&file, Some(Make::Lasting(1 << 20))));
    assert!(!file.exists(), "finding makes nothing");
    sized(&file, 512);
    for source in [HOST, CREATE] {
        assert_eq!(pod.find(source).unwrap().make, None);
    }
    fs::remove_file(&file).unwrap();
    symlink("/etc/passwd", &file).unwrap();
    for source in [HOST, CREATE] {
        pod.refused(source, "volumes/a", "it is a link, and none is followed here");
    }
}

#[test]
fn files_and_seeds() {
    let pod = Pod::new();
    let secret = "secret: {secretName: s}";
    pod.refused(secret, "volumes/a", "No such file or directory");
    assert!(pod.find("secret: {secretName: s, optional: true}").is_ok());
    let files = pod.dir("volumes/a");
    fs::write(files.join("Key"), "1").unwrap();
    let drive = pod.find(secret).unwrap();
    assert!(drive.readonly && matches!(drive.make, Some(Make::Image(_))));
    fs::write(files.join("key"), "2").unwrap();
    pod.refused(
        secret,
        "volumes/a",
        "\"key\" and another name differ in case only",
    );
    let seed = "cloudInitNoCloud: {secretRef: {name: s}}";
    pod.refused(seed, "volumes/a", "none of the keys userdata and userData");
    fs::write(files.join("userData"), "#cloud-config").unwrap();
    assert!(pod.find(seed).unwrap().readonly);
    let Some(Make::Empty(size)) = pod.find("emptyDisk: {capacity: 1Mi}").unwrap().make else {
        panic!()
    };
    assert_eq!(size, 1 << 20);
}

#[test]
fn user_data_and_network_data_of_two_secrets() {
    let pod = Pod::new();
    let seed = "cloudInitNoCloud: {secretRef: {name: one}, networkDataSecretRef: {name: two}}";
    fs::write(pod.dir("volumes/a").join("userdata"), "#cloud-config").unwrap();
    let text = pod.find(seed).unwrap_err().to_string();
    assert!(
        text.contains("volumes/a.networkdata: No such file") && text.contains("--volume a.networkdata=DIR"),
        "{text}"
    );
    let other = pod.dir("volumes/a.networkdata");
    // The same key as in the first: it is not taken for that one's.
    fs::write(other.join("userdata"), "of another secret").unwrap();
    let text = pod.find(seed).unwrap_err().to_string();
    assert!(
        text.contains("volumes/a.networkdata: none of the keys networkdata and networkData"),
        "{text}"
    );
    fs::write(other.join("networkdata"), "version: 2").unwrap();
    let Some(Make::Image(image)) = pod.find(seed).unwrap().make else {
        panic!()
    };
    let has = |text: &str| image.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    assert!(has("#cloud-config") && has("version: 2") && !has("of another secret"));
}

#[test]
fn user_data_reaches_the_guest_byte_for_byte() {
    let pod = Pod::new();
    let bytes: Vec<u8> = b"#cloud-config\r\n\xff\x00\xfe  \n\n".to_vec();
    fs::write(pod.dir("volumes/a").join("userdata"), &bytes).unwrap();
    let drive = pod.find("cloudInitNoCloud: {secretRef: {name: s}}").unwrap();
    let Some(Make::Image(image)) = drive.make else {
        panic!()
    };
    assert!(image.windows(bytes.len()).any(|found| found == bytes));
    assert_eq!(&image[16 * 2048 + 1..][..5], b"CD001", "as KubeVirt's");
}

#[test]
fn public_keys_are_read_where_the_pod_has_them() {
    let pod = Pod::new();
    let keys = pod.dir("volumes/keys.access-credential");
    fs::write(keys.join("me"), "ssh-ed25519 AAAA me\n").unwrap();
    let text = "{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {name: web}, spec: {
        domain: {memory: {guest: 256Mi}}, volumes: [{name: a, cloudInitNoCloud: {userData: x}}],
        accessCredentials: [{sshPublicKey: {source: {secret: {secretName: keys}}, propagationMethod: {noCloud: {}}}}]}}";
    let guest = crate::spec::load(text).unwrap().spec;
    let state = pod.0.path().to_str().unwrap();
    let Command::Run(args) = Cli::try_parse_from(["hawser", "run", "--state-dir", state])
        .unwrap()
        .command
    else {
        panic!()
    };
    let found = || {
        find(
            &args.pod.places(),
            &guest,
            &pod.0.path().join("vmm"),
            locks::Users::None,
        )
        .remove(0)
    };
    let Some(Make::Image(image)) = found().unwrap().make else {
        panic!()
    };
    let key = br#""public-keys":{"0":"ssh-ed25519 AAAA me"}"#;
    assert!(image.windows(key.len()).any(|bytes| bytes == key));
    fs::remove_dir_all(&keys).unwrap();
    let text = found().unwrap_err().to_string();
    assert!(
        text.contains("volumes/keys.access-credential: No such file"),
        "{text}"
    );
}

/// As another user than the file's, which a child of this test is.
#[test]
#[ignore = "needs root, to have a child of another user"]
fn a_disk_that_is_there_and_cannot_be_read() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    const NAME: &str = "disks::find::tests::a_disk_that_is_there_and_cannot_be_read";
    const STATE: &str = "HAWSER_TEST_STATE";
    if let Some(state) = std::env::var_os(STATE) {
        let guest = crate::spec::load(&format!(
            "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: web}}, spec: {{
            domain: {{memory: {{guest: 256Mi}}}}, volumes: [{{name: a, {CLAIM}}}]}}}}"
        ));
        let line = ["hawser", "run", "--state-dir", state.to_str().unwrap()];
        let Command::Run(args) = Cli::try_parse_from(line).unwrap().command else {
            panic!()
        };
        let found = find(
            &args.pod.places(),
            &guest.unwrap().spec,
            Path::new("/nowhere"),
            locks::Users::None,
        )
        .remove(0);
        println!("{}", found.unwrap_err());
        return;
    }
    assert!(nix::unistd::geteuid().is_root(), "needs root");
    let pod = Pod::new();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(pod.0.path(), 0o755);
    let image = pod.dir("volumes/a").join("disk.img");
    sized(&image, 1 << 20);
    mode(&image, 0o600);
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--include-ignored", "--nocapture"])
        .env(STATE, pod.0.path())
        .uid(107)
        .gid(107)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(
        text.contains(
            "disk.img is there and cannot be opened to be written: it belongs to 0:0 with mode 0600"
        ) && text.contains("chown or chmod")
            && !text.contains("truncate"),
        "{text}"
    );
}

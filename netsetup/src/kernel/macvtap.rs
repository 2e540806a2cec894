//! Character devices of macvtaps (linux/drivers/net/macvtap.c): each opening is a queue of its interface.
//!
//! The kernel calls the device `tapN`, with N the index that the interface had when it was made. Whether a file of that
//! name in /dev is this interface's is known by its device number, which sysfs has, and, once it is open, by the name
//! that the kernel has for it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

const DEV: &str = "/dev";

mod ioctls {
    nix::ioctl_read_bad!(
        get_iff,
        nix::request_code_read!(b'T', 210, size_of::<nix::libc::c_uint>()),
        super::libc::ifreq
    );
}

/// Why a macvtap cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum MacvtapError {
    /// The pod was not given the device.
    #[error("the pod has no device node for the macvtap {interface}: expected {wanted}")]
    NoNode { interface: String, wanted: String },
    #[error("open {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} belongs to {found}, not to {interface}", path.display())]
    Other {
        path: PathBuf,
        interface: String,
        found: String,
    },
}

/// Opens a macvtap for as many queue pairs. The descriptors are non-blocking, and not inherited by other programs.
///
/// # Errors
/// Where the device is not in /dev, or may not be opened by this process.
pub fn open_macvtap(interface: &str, index: u32, queue_pairs: u16) -> Result<Vec<OwnedFd>, MacvtapError> {
    let path = node(interface, index)?;
    (0..queue_pairs).map(|_| open(&path, interface)).collect()
}

fn node(interface: &str, index: u32) -> Result<PathBuf, MacvtapError> {
    let usual = Path::new(DEV).join(format!("tap{index}"));
    let number = number(interface);
    let is_it = |path: &Path| {
        fs::metadata(path).is_ok_and(|meta| {
            meta.file_type().is_char_device() && number.is_none_or(|number| number == meta.rdev())
        })
    };
    if is_it(&usual) {
        return Ok(usual);
    }
    // Of another index where it was made, or of a name that the pod's owner chose for it.
    let others = fs::read_dir(DEV).into_iter().flatten().flatten();
    let found = others
        .map(|entry| entry.path())
        .filter(|path| {
            number.is_some()
                && path
                    .file_name()
                    .is_some_and(|name| name.as_encoded_bytes().starts_with(b"tap"))
        })
        .find(|path| is_it(path));
    found.ok_or_else(|| MacvtapError::NoNode {
        interface: interface.to_owned(),
        wanted: match number {
            Some(number) => format!(
                "{}, character device {}:{}",
                usual.display(),
                libc::major(number),
                libc::minor(number)
            ),
            None => usual.display().to_string(),
        },
    })
}

/// The device number, where this namespace's sysfs is mounted.
fn number(interface: &str) -> Option<u64> {
    let devices = fs::read_dir(Path::new("/sys/class/net").join(interface).join("macvtap")).ok()?;
    let text = devices
        .flatten()
        .find_map(|entry| fs::read_to_string(entry.path().join("dev")).ok())?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
}

fn open(path: &Path, interface: &str) -> Result<OwnedFd, MacvtapError> {
    let failed = |source| MacvtapError::Open {
        path: path.to_owned(),
        source,
    };
    let device: File = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(failed)?;
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and the request lives through the call.
    unsafe { ioctls::get_iff(device.as_raw_fd(), &mut request) }.map_err(|errno| failed(errno.into()))?;
    let name: Vec<u8> = request
        .ifr_name
        .iter()
        .map(|byte| byte.to_ne_bytes()[0])
        .take_while(|byte| *byte != 0)
        .collect();
    if name == interface.as_bytes() {
        return Ok(device.into());
    }
    Err(MacvtapError::Other {
        path: path.to_owned(),
        interface: interface.to_owned(),
        found: String::from_utf8_lossy(&name).into_owned(),
    })
}

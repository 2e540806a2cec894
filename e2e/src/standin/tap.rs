//! TAP devices: the launcher's, opened by name, and the guest's own, made here.
//!
//! The launcher's is opened with the flags and the checks that cloud-hypervisor has, all of which hold for a process
//! without any capability. Offloads stay off, so that every frame is complete and needs no virtio-net header.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use nix::libc::{self, c_char, c_int, c_short, ifreq};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Bytes of `virtio_net_hdr_v1`, in front of every frame.
pub(crate) const VNET_HDR: usize = 12;

nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, ifreq);
nix::ioctl_write_ptr_bad!(tun_set_vnet_hdr_sz, libc::TUNSETVNETHDRSZ, c_int);
nix::ioctl_read_bad!(tun_get_iff, libc::TUNGETIFF, ifreq);
nix::ioctl_write_int_bad!(tun_set_offload, libc::TUNSETOFFLOAD);
nix::ioctl_read_bad!(get_mtu, libc::SIOCGIFMTU, ifreq);
nix::ioctl_read_bad!(get_mac, libc::SIOCGIFHWADDR, ifreq);
nix::ioctl_read_bad!(get_flags, libc::SIOCGIFFLAGS, ifreq);

/// What the launcher's TAP turned out to be.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) name: String,
    /// One descriptor for each queue pair.
    pub(crate) queues: Vec<File>,
    pub(crate) mtu: u32,
}

/// # Errors
/// What the kernel refuses (queue mode, owner), and a TAP whose MAC, MTU or state would need a capability to set.
pub(crate) fn open(name: &str, pairs: usize, host_mac: Option<&str>, mtu: Option<u32>) -> Result<Opened> {
    let mode = if pairs > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    check_queue_mode(name, pairs)?;
    let mut queues = Vec::new();
    for _ in 0..pairs.max(1) {
        let queue = attach(name, libc::IFF_VNET_HDR | mode)?;
        with_headers(&queue)?;
        queues.push(queue);
    }
    let found = Link::query(name)?;
    if let Some(wanted) = host_mac
        && wanted.to_ascii_lowercase() != found.mac
    {
        bail!(
            "setting MAC address failed: {name} has {}, not {wanted}",
            found.mac
        );
    }
    if let Some(wanted) = mtu
        && wanted != found.mtu
    {
        bail!("setting MTU failed: {name} has {}, not {wanted}", found.mtu);
    }
    if !found.up {
        bail!("enabling TAP interface failed: {name} is down");
    }
    Ok(Opened {
        name: name.to_owned(),
        queues,
        mtu: found.mtu,
    })
}

/// Takes queues that were opened by somebody else, a macvtap's.
///
/// # Errors
/// What is no such queue.
pub(crate) fn adopt(files: &[Arc<OwnedFd>]) -> Result<Opened> {
    let mode = if files.len() > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    let mut queues = Vec::new();
    let mut name = String::new();
    for file in files {
        let queue = File::from(file.try_clone()?);
        // SAFETY: ifreq is plain data, for which all zeroes is a value.
        let mut request: ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and the request a live ifreq.
        unsafe { tun_get_iff(queue.as_raw_fd(), &mut request) }.context("not a TAP or macvtap")?;
        name = request
            .ifr_name
            .iter()
            .take_while(|byte| **byte != 0)
            .map(|byte| char::from(*byte as u8))
            .collect();
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | mode;
        request.ifr_ifru.ifru_flags = flags as c_short;
        // SAFETY: as above. A TAP that is attached already says so, and keeps its flags.
        match unsafe { tun_set_iff(queue.as_raw_fd(), &request) } {
            Err(nix::Error::EEXIST) => {}
            other => drop(other.context("set the flags")?),
        }
        with_headers(&queue)?;
        queues.push(queue);
    }
    let found = Link::query(&name)?;
    Ok(Opened {
        name,
        queues,
        mtu: found.mtu,
    })
}

fn with_headers(queue: &File) -> Result<()> {
    let size = VNET_HDR as c_int;
    // SAFETY: the descriptor is a TUN queue and the argument is a live integer.
    unsafe { tun_set_vnet_hdr_sz(queue.as_raw_fd(), &size) }.context("set vnet header size")?;
    // SAFETY: as above; the argument is a plain number.
    unsafe { tun_set_offload(queue.as_raw_fd(), 0) }.context("set offloads")?;
    Ok(())
}

/// Makes a TAP for the guest's side, which lives as long as the returned file.
///
/// # Errors
/// What the kernel refuses; it needs CAP_NET_ADMIN.
pub(crate) fn make(name: &str) -> Result<File> {
    attach(name, 0)
}

fn attach(name: &str, flags: c_int) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("open /dev/net/tun")?;
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | flags) as c_short;
    // SAFETY: the descriptor is open and the request is a live ifreq with a terminated name.
    unsafe { tun_set_iff(file.as_raw_fd(), &request) }.with_context(|| format!("attach to TAP {name}"))?;
    Ok(file)
}

/// The kernel's own EINVAL says little; the real VMM looks first, in sysfs, and so does this.
fn check_queue_mode(name: &str, pairs: usize) -> Result<()> {
    let path = format!("/sys/class/net/{name}/tun_flags");
    let Ok(text) = std::fs::read_to_string(&path) else {
        return Ok(());
    };
    let flags =
        i32::from_str_radix(text.trim().trim_start_matches("0x"), 16).with_context(|| path.clone())?;
    match (flags & libc::IFF_MULTI_QUEUE != 0, pairs > 1) {
        (true, false) => bail!("{name} is multi-queue and the device is not"),
        (false, true) => bail!("the device is multi-queue and {name} is not"),
        _ => Ok(()),
    }
}

struct Link {
    mac: String,
    mtu: u32,
    up: bool,
}

impl Link {
    fn query(name: &str) -> Result<Self> {
        let socket = socket(
            AddressFamily::Unix,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let fd = socket.as_raw_fd();
        let mut request = request(name)?;
        // SAFETY: the descriptor is a socket, the request a live ifreq; after success the union holds the MAC.
        let mac = unsafe {
            get_mac(fd, &mut request)?;
            request.ifr_ifru.ifru_hwaddr.sa_data
        };
        // SAFETY: as above, and the union holds the MTU.
        let mtu = unsafe {
            get_mtu(fd, &mut request)?;
            request.ifr_ifru.ifru_mtu
        };
        // SAFETY: as above, and the union holds the flags.
        let flags = unsafe {
            get_flags(fd, &mut request)?;
            request.ifr_ifru.ifru_flags
        };
        let mac: Vec<String> = mac
            .iter()
            .take(6)
            .map(|byte| format!("{:02x}", *byte as u8))
            .collect();
        Ok(Self {
            mac: mac.join(":"),
            mtu: u32::try_from(mtu)?,
            up: c_int::from(flags) & libc::IFF_UP != 0,
        })
    }
}

fn request(name: &str) -> Result<ifreq> {
    // SAFETY: ifreq is plain data, for which all zeroes is a value.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        bail!("not an interface name: {name:?}");
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    Ok(request)
}

//! TAP devices by way of /dev/net/tun (Documentation/networking/tuntap.rst).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

use crate::error::StepFailure;
use crate::step::TapStep;

const TUN: &str = "/dev/net/tun";

mod ioctls {
    use nix::libc::c_int;
    nix::ioctl_write_ptr_bad!(
        set_iff,
        nix::request_code_write!(b'T', 202, size_of::<c_int>()),
        super::libc::ifreq
    );
    nix::ioctl_write_int_bad!(
        set_persist,
        nix::request_code_write!(b'T', 203, size_of::<c_int>())
    );
    nix::ioctl_write_int_bad!(set_owner, nix::request_code_write!(b'T', 204, size_of::<c_int>()));
    nix::ioctl_write_int_bad!(set_group, nix::request_code_write!(b'T', 206, size_of::<c_int>()));
}

/// Makes the TAP, or attaches to it where it is there. It lasts as long as the descriptor until [`persist`].
pub(super) fn create(tap: &TapStep) -> Result<OwnedFd, StepFailure> {
    let queues = if tap.multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
    // The VMM opens the guest's TAP with a virtio-net header; the header is the opener's choice, so what is asked for
    // here need only be a TAP.
    let device = attach(&tap.name, libc::IFF_TAP | libc::IFF_NO_PI | queues)?;
    for (call, id) in [("TUNSETOWNER", tap.owner.uid), ("TUNSETGROUP", tap.owner.gid)] {
        let id = i32::try_from(id)
            .map_err(|_| StepFailure::system(call, io::Error::from_raw_os_error(libc::EINVAL)))?;
        // SAFETY: the descriptor is a TUN device and both calls take a plain number.
        let result = unsafe {
            match call {
                "TUNSETOWNER" => ioctls::set_owner(device.as_raw_fd(), id),
                _ => ioctls::set_group(device.as_raw_fd(), id),
            }
        };
        result.map_err(|errno| StepFailure::system(format!("{call} on {}", tap.name), errno))?;
    }
    Ok(device)
}

/// From now on the TAP outlives its descriptors.
pub(super) fn persist(device: &OwnedFd) -> Result<(), StepFailure> {
    // SAFETY: the descriptor is a TUN device and the call takes a plain number.
    unsafe { ioctls::set_persist(device.as_raw_fd(), 1) }
        .map_err(|errno| StepFailure::system("TUNSETPERSIST", errno))?;
    Ok(())
}

/// Opens an existing TAP of one queue for its frames: each read gives one Ethernet frame and each write takes one.
///
/// The device's owner needs no capability for this. The descriptor is non-blocking.
pub fn open_tap(name: &str) -> Result<OwnedFd, StepFailure> {
    attach(name, libc::IFF_TAP | libc::IFF_NO_PI)
}

fn attach(name: &str, flags: libc::c_int) -> Result<OwnedFd, StepFailure> {
    let device: File = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(TUN)
        .map_err(|source| StepFailure::system(format!("open {TUN}"), source))?;
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte less than there is room for: the name stays terminated.
    let room = request.ifr_name.len().saturating_sub(1);
    if name.is_empty() || name.len() > room {
        return Err(StepFailure::system(
            format!("open the TAP {name}"),
            io::Error::from_raw_os_error(libc::EINVAL),
        ));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = libc::c_char::from_ne_bytes([byte]);
    }
    // The flags' bits, not their number, are what counts: IFF_MULTI_QUEUE and its like fit 16 bits.
    request.ifr_ifru.ifru_flags = libc::c_short::from_ne_bytes(((flags & 0xffff) as u16).to_ne_bytes());
    // SAFETY: the descriptor is open and the request lives through the call.
    unsafe { ioctls::set_iff(device.as_raw_fd(), &request) }
        .map_err(|errno| StepFailure::system(format!("attach to the TAP {name}"), errno))?;
    Ok(device.into())
}

//! What the kernel says of the VMM's threads, for what its events say too late.

use std::{fs, io};

use nix::unistd::Pid;

use crate::assumptions::VCPU_THREAD;

/// How many threads of vCPUs there are. cloud-hypervisor names them `vcpu0`, `vcpu1`, … and waits until they all run
/// before it goes on, on a restored guest as on a new one.
pub fn vcpus(vmm: Pid) -> io::Result<usize> {
    Ok(vcpu_threads(vmm)?.len())
}

/// Their threads, as the kernel numbers them.
pub(crate) fn vcpu_threads(vmm: Pid) -> io::Result<Vec<Pid>> {
    let mut vcpus = Vec::new();
    for thread in fs::read_dir(format!("/proc/{vmm}/task"))? {
        let thread = thread?;
        match fs::read_to_string(thread.path().join("comm")) {
            Ok(name) if name.starts_with(VCPU_THREAD) => {
                let number = thread.file_name().to_string_lossy().parse();
                vcpus.push(Pid::from_raw(number.map_err(io::Error::other)?));
            }
            Ok(_) => {}
            // It has ended since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(vcpus)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_of_that_name_is_seen_as_soon_as_it_runs() {
        let own = Pid::this();
        assert_eq!(vcpus(own).unwrap(), 0);
        let (runs, done) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|scope| {
            thread::Builder::new()
                .name("vcpu0".into())
                .spawn_scoped(scope, || {
                    runs.wait();
                    done.wait();
                })
                .unwrap();
            runs.wait();
            let seen = vcpus(own);
            done.wait();
            assert_eq!(seen.unwrap(), 1);
        });
    }

    #[test]
    fn of_a_process_that_has_gone_nothing_is_known() {
        assert!(vcpus(Pid::from_raw(i32::MAX)).is_err());
    }
}

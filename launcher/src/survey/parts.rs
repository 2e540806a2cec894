//! Parts of a survey that are a file or a directory of the pod's.

use std::path::PathBuf;

use hawser_netsetup::Owner;

use super::Survey;
use crate::disks;
use crate::error::{ExitCode, Failure};
use crate::hooks;
use crate::pod::finding::{Finding, Part};
use crate::spec::GuestSpec;

/// Bytes. All of SMBIOS has 64 KiB, and base64 makes four of three.
const MAX_KEYS: usize = 24 << 10;

impl Survey<'_> {
    /// The public keys that root has in the guest by a credential of systemd's.
    pub(super) fn root_keys(&self, guest: &GuestSpec, owner: &Part<Owner>) -> Part<Vec<String>> {
        let read = || -> Result<Vec<String>, Failure> {
            let mut all = Vec::new();
            for keys in &guest.root_keys {
                all.extend(disks::public_keys(self.places, keys)?);
                if all.iter().map(String::len).fold(0, usize::saturating_add) > MAX_KEYS {
                    return Err(Failure::unfit(
                        format!("{}: more than {} KiB of public keys", keys.path, MAX_KEYS >> 10),
                        "SMBIOS, by which the guest gets them, has no room for more: leave keys out of the secret",
                    ));
                }
            }
            Ok(all)
        };
        match self.as_owner(owner, read) {
            Ok(read) => Part::or_bad(read),
            Err(failure) => Part::bad(failure),
        }
    }

    pub(super) fn hooks(&self, guest: &GuestSpec) -> Part<PathBuf> {
        let directory = self.places.hooks();
        if hooks::plugins(guest).is_empty() {
            return Part::silent(directory);
        }
        let absolute = std::path::absolute(&directory).map_err(|error| {
            let what = format!("the hooks' directory {}", directory.display());
            Failure::new(ExitCode::PodUnfit, what).because(error)
        });
        let part = Part::or_bad(absolute);
        match directory.is_dir() {
            true => part.with(Finding::Good(format!(
                "sidecars' sockets: {}",
                directory.display()
            ))),
            false => part.with(Finding::Note(format!(
                "{} is not there yet: the sidecars of binding plugins are waited for at the start",
                directory.display()
            ))),
        }
    }
}

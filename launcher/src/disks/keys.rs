//! The public keys of a secret that the pod mounts: each file has one or more, a line each.

use std::path::Path;

use super::files;
use crate::error::Failure;
use crate::pod::places::Places;
use crate::spec::PublicKeys;

/// What is in each file.
pub(super) fn read(place: &Path) -> Result<Vec<String>, files::Problem> {
    let files = files::all(place)?;
    let texts = files.into_values().map(|content| {
        let text = String::from_utf8_lossy(&content);
        text.trim().to_owned()
    });
    Ok(texts.filter(|text| !text.is_empty()).collect())
}

/// Those of a credential, from where the pod has its secret.
pub(crate) fn public_keys(places: &Places, keys: &PublicKeys) -> Result<Vec<String>, Failure> {
    let volume = keys.volume();
    let place = places.volume(&volume);
    read(&place).map_err(|problem| {
        Failure::unfit(
            format!("{}: {}: {problem}", keys.path, place.display()),
            format!(
                "mount the secret there for the guest's user, or pass its location with --volume {volume}=DIR"
            ),
        )
    })
}

//! Making what a guest's disks need, as the unprivileged user, and taking it away.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::{DIRECTORY, Drive, Make, expand::expand};
use crate::error::{ExitCode, Failure};

/// Makes every file that is not there yet. `directory` is the unprivileged half's own; what an earlier start left in it
/// is gone afterwards.
pub(crate) fn make(directory: &Path, drives: &[Drive]) -> Result<(), Failure> {
    let ours = directory.join(DIRECTORY);
    let fail = |path: &Path, error: io::Error| {
        Failure::new(ExitCode::PodUnfit, format!("make {}", path.display()))
            .because(error)
            .remedy("give the state directory, or the volume, room and let the guest's user write there")
    };
    clear(directory).map_err(|error| fail(&ours, error))?;
    if drives.iter().all(|drive| drive.make.is_none()) {
        return Ok(());
    }
    DirBuilder::new()
        .mode(0o700)
        .create(&ours)
        .map_err(|error| fail(&ours, error))?;
    for drive in drives {
        if let Some(make) = &drive.make {
            write(&drive.path, make).map_err(|error| fail(&drive.path, error))?;
        }
    }
    Ok(())
}

/// Removes what `make` made there, if anything.
pub(crate) fn clear(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory.join(DIRECTORY)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write(path: &Path, make: &Make) -> io::Result<()> {
    if let Make::Lasting(size) = make {
        return lasting(path, *size);
    }
    // Never through a link, and never onto a file that has come since we looked.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    match make {
        Make::Image(bytes) => file.write_all(bytes),
        Make::Seed(seed) => file.write_all(&seed.image().map_err(io::Error::other)?),
        Make::Copy {
            from,
            image_type,
            size,
        } => expand(&File::open(from)?, *image_type, *size, &file),
        // Without its blocks: a disk takes the room that its guest uses.
        Make::Empty(size) | Make::Lasting(size) => file.set_len(*size),
    }
}

/// What stays is there as a whole or not at all, also after a power cut: a later start takes what it finds for the disk.
fn lasting(path: &Path, size: u64) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let fresh = directory.join(format!(".{}.new", name.to_string_lossy()));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    file.set_len(size)?;
    file.sync_all()?;
    // Never onto a file that has come since we looked; a file system without hard links can only be asked before.
    match fs::hard_link(&fresh, path) {
        Ok(()) => fs::remove_file(&fresh)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists || path.try_exists()? => {
            let _ = fs::remove_file(&fresh);
            return Err(error);
        }
        Err(_) => fs::rename(&fresh, path)?,
    }
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disks::ImageType;

    fn drive(path: &Path, make: Make) -> Drive {
        Drive {
            name: "d".into(),
            path: path.into(),
            image_type: ImageType::Raw,
            base: None,
            readonly: false,
            direct: false,
            shared: false,
            serial: None,
            boot_order: None,
            boots: None,
            make: Some(make),
        }
    }

    #[test]
    fn a_second_start_begins_anew_and_what_lasts_is_elsewhere() {
        let state = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let ours = state.path().join(DIRECTORY);
        let empty = drive(&ours.join("a"), Make::Empty(4096));
        let image = drive(&ours.join("b"), Make::Image(b"x".to_vec()));
        let lasting = drive(&elsewhere.path().join("c"), Make::Lasting(512));
        make(state.path(), &[empty.clone(), image.clone(), lasting.clone()]).unwrap();
        fs::write(ours.join("a"), "written by the guest").unwrap();
        make(state.path(), &[empty, image]).unwrap();
        assert_eq!(fs::read(ours.join("a")).unwrap(), vec![0; 4096]);
        assert_eq!(fs::read(ours.join("b")).unwrap(), b"x");
        clear(state.path()).unwrap();
        assert!(!ours.exists());
        clear(state.path()).unwrap();
        assert_eq!(fs::metadata(&lasting.path).unwrap().len(), 512);
        let names: Vec<_> = fs::read_dir(elsewhere.path())
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect();
        assert_eq!(names, ["c"], "nothing of how it was made is left");
        let failure = make(state.path(), &[lasting]).unwrap_err();
        assert_eq!(
            failure.code(),
            ExitCode::PodUnfit,
            "it is there already: {failure}"
        );
    }
}

//! What each of the guest's volumes is in this pod. Reads only.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use hawser_linux::safe_path::{self, Links, RegularFile};
use nix::fcntl::OFlag;

use super::fat::{self, Files};
use super::head::{head, other_type};
use super::{
    DIRECTORY, Drive, ImageType, Make, SECTOR, Seed, files, firmware_boot, keys, locks, qcow2, seed,
};
use crate::error::{ExitCode, Failure};
use crate::pod::places::Places;
use crate::spec::{
    CloudInit, CloudInitSource, Disk, GuestSpec, SeedData, VolumeLabel, VolumeSource, network_data_volume,
};

/// A claim's file, by KubeVirt's convention.
const DISK_IMG: &str = "disk.img";

/// Why a volume is no disk.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    File(#[from] safe_path::Problem),
    #[error(transparent)]
    Files(#[from] files::Problem),
    #[error(transparent)]
    Qcow2(#[from] qcow2::Problem),
    #[error(transparent)]
    Fat(#[from] fat::Problem),
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("size 0")]
    Empty,
    #[error("{0} bytes, which is not a multiple of {SECTOR}")]
    Sectors(u64),
    #[error("a {0} image, where a raw one is expected")]
    NotRaw(&'static str),
    #[error("a {0} image, where a raw or a qcow2 one is expected")]
    Unknown(&'static str),
    #[error("one file is expected, found {}", if .0.is_empty() { "none".to_owned() } else { .0.join(" and ") })]
    Several(Vec<String>),
    #[error("neither a directory nor a block device")]
    NoVolume,
    #[error("another process is using it as a disk")]
    Locked,
    #[error("{file} is there and cannot be {}: it belongs to {uid}:{gid} with mode {mode:04o}", if *.write { "opened to be written" } else { "read" })]
    Denied {
        file: String,
        uid: u32,
        gid: u32,
        mode: u32,
        write: bool,
    },
    /// Of a secret that is mounted elsewhere than the volume.
    #[error("{}: {problem}", .place.display())]
    At { place: PathBuf, problem: files::Problem },
}

/// Finds every volume of `guest`. `directory` is the unprivileged half's own, where the disks that are made will be. `users`:
/// whether somebody else may be using a disk.
pub(crate) fn find(
    places: &Places,
    guest: &GuestSpec,
    directory: &Path,
    users: locks::Users,
) -> Vec<Result<Drive, Failure>> {
    let made = directory.join(DIRECTORY);
    let drive = |disk: &Disk| {
        let place = place(places, disk);
        // Its own, until it is given away: cloud-hypervisor releases the lock then.
        let lock = users == locks::Users::None || !disk.shared;
        let found = one(places, guest, disk, &place, &made, lock);
        found.map_err(|problem| fail(disk, &place, &problem))
    };
    guest.disks.iter().map(drive).collect()
}

/// Where the pod has what the volume names.
fn place(places: &Places, disk: &Disk) -> PathBuf {
    match disk.volume.source {
        VolumeSource::ContainerDisk { .. } => places.image(&disk.name),
        _ => places.volume(&disk.name),
    }
}

fn fail(disk: &Disk, place: &Path, problem: &Problem) -> Failure {
    let remedy = match &disk.volume.source {
        _ if matches!(problem, Problem::Locked) => {
            "end the other guest, or give this one a disk of its own".to_owned()
        }
        _ if matches!(problem, Problem::NotRaw(_) | Problem::Unknown(_)) => {
            "convert it: qemu-img convert -O raw IMAGE disk.img".to_owned()
        }
        VolumeSource::ContainerDisk { .. } => format!(
            "mount the image there with its disk under /disk, readable by the guest's user, or pass its location with --image {}=DIR",
            disk.name
        ),
        VolumeSource::Claim { .. } | VolumeSource::Ephemeral { .. } => format!(
            "mount the claim there, with a raw disk image {DISK_IMG} that the guest's user may use (truncate -s SIZE {DISK_IMG}), \
             or pass its location, or a block device, with --volume {}=PATH",
            disk.name
        ),
        _ => format!(
            "mount the volume there for the guest's user, or pass its location with --volume {}=DIR",
            disk.name
        ),
    };
    let remedy = match problem {
        Problem::Denied { write, .. } => format!(
            "let the guest's user {} it: chown or chmod, or fsGroup of the pod",
            if *write { "read and write" } else { "read" }
        ),
        Problem::At { place, .. } => {
            let name = place.file_name().unwrap_or_default().to_string_lossy();
            format!(
                "mount the secret there for the guest's user, or pass its location with --volume {name}=DIR"
            )
        }
        _ => remedy,
    };
    let what = match problem {
        // It has a place of its own.
        Problem::At { .. } => format!("{}: {problem}", disk.volume.path),
        _ => format!("{}: {}: {problem}", disk.volume.path, place.display()),
    };
    Failure::new(ExitCode::PodUnfit, what).remedy(remedy)
}

fn one(
    places: &Places,
    guest: &GuestSpec,
    disk: &Disk,
    place: &Path,
    made: &Path,
    lock: bool,
) -> Result<Drive, Problem> {
    let image = made.join(format!("{}.img", disk.name));
    let drive = |path: PathBuf, image_type: ImageType, make: Option<Make>| Drive {
        name: disk.name.clone(),
        path,
        image_type,
        base: None,
        readonly: disk.readonly,
        direct: disk.direct,
        shared: disk.shared,
        serial: disk.serial.clone(),
        boot_order: disk.boot_order,
        boots: make.is_some().then_some(false),
        make,
    };
    let with = |boots: Option<bool>, drive: Drive| Drive { boots, ..drive };
    match &disk.volume.source {
        VolumeSource::ContainerDisk { path, .. } => {
            let file = container_disk(place, path.as_deref())?;
            let mut opened = file.open(false, OFlag::empty())?;
            let (image_type, size) = either_type(&mut opened)?;
            let boots = firmware_boot::of(&mut opened, image_type);
            if disk.readonly {
                return Ok(with(boots, drive(file.path, image_type, None)));
            }
            let copied = guest.live_migrate
                && (image_type == ImageType::Raw || qcow2::not_expanded(&head(&mut opened)?.0).is_none());
            if copied {
                let make = Make::Copy {
                    from: file.path,
                    image_type,
                    size,
                };
                return Ok(with(boots, drive(image, ImageType::Raw, Some(make))));
            }
            over(&file.path, image_type, size, disk, made).map(|drive| with(boots, drive))
        }
        VolumeSource::HostDisk { file, create } => {
            match (RegularFile::find(place, file, Links::None), create) {
                (Err(problem), Some(size)) if problem.is_missing() => {
                    // The directory must be there: what is to last is not put just anywhere.
                    safe_path::names(place, "")?;
                    Ok(drive(
                        place.join(file),
                        ImageType::Raw,
                        Some(Make::Lasting(*size)),
                    ))
                }
                (found, _) => {
                    let found = found?;
                    let mut file = open(&found, !disk.readonly, flags(disk))?;
                    raw(&mut file, disk, lock)?;
                    let boots = firmware_boot::of(&mut file, ImageType::Raw);
                    Ok(with(boots, drive(found.path, ImageType::Raw, None)))
                }
            }
        }
        VolumeSource::Claim { .. } => {
            let (path, mut file) = claim(place, !disk.readonly, flags(disk))?;
            raw(&mut file, disk, lock)?;
            let boots = firmware_boot::of(&mut file, ImageType::Raw);
            Ok(with(boots, drive(path, ImageType::Raw, None)))
        }
        VolumeSource::Ephemeral { .. } => {
            let (path, mut file) = claim(place, false, OFlag::empty())?;
            let size = raw_size(&mut file)?;
            let boots = firmware_boot::of(&mut file, ImageType::Raw);
            if disk.readonly {
                return Ok(with(boots, drive(path, ImageType::Raw, None)));
            }
            over(&path, ImageType::Raw, size, disk, made).map(|drive| with(boots, drive))
        }
        VolumeSource::EmptyDisk { capacity } => {
            Ok(drive(image, ImageType::Raw, Some(Make::Empty(*capacity))))
        }
        VolumeSource::CloudInit(cloud_init) => {
            let seed = Seed::new(
                cloud_init.source,
                seed_files(places, cloud_init, guest, (&disk.name, place))?,
            );
            // Whatever it is told later, this is when its names are found fit.
            let bytes = seed.image()?;
            let make = match cloud_init.source {
                CloudInitSource::ConfigDrive => Make::Seed(seed),
                CloudInitSource::NoCloud => Make::Image(bytes),
            };
            Ok(drive(image, ImageType::Raw, Some(make)))
        }
        VolumeSource::Files { optional, label } => {
            let files = match files::all(place) {
                Err(problem) if *optional && problem.is_missing() => Files::new(),
                found => found?,
            };
            let bytes = fat::image(label, &files)?;
            Ok(drive(image, ImageType::Raw, Some(Make::Image(bytes))))
        }
    }
}

/// O_DIRECT is tried here, so that a file system that has none is found out now.
fn flags(disk: &Disk) -> OFlag {
    if disk.direct {
        OFlag::O_DIRECT
    } else {
        OFlag::empty()
    }
}

/// An overlay on `base`, whose writes are gone at the end.
fn over(base: &Path, image_type: ImageType, size: u64, disk: &Disk, made: &Path) -> Result<Drive, Problem> {
    let overlay = qcow2::overlay(size, base, image_type.name())?;
    Ok(Drive {
        name: disk.name.clone(),
        path: made.join(format!("{}.qcow2", disk.name)),
        image_type: ImageType::Qcow2,
        base: Some(base.to_owned()),
        readonly: false,
        direct: disk.direct,
        shared: false,
        serial: disk.serial.clone(),
        boot_order: disk.boot_order,
        boots: None,
        make: Some(Make::Image(overlay)),
    })
}

fn container_disk(place: &Path, path: Option<&str>) -> Result<RegularFile, Problem> {
    if let Some(path) = path {
        return Ok(RegularFile::find(place, path, Links::Inside)?);
    }
    let names = safe_path::names(place, "disk")?;
    match names.as_slice() {
        [name] => Ok(RegularFile::find(place, &format!("disk/{name}"), Links::Inside)?),
        _ => Err(Problem::Several(names.into_iter().take(5).collect())),
    }
}

/// A claim's disk: a block device, or `disk.img` in a file system.
fn claim(place: &Path, writable: bool, flags: OFlag) -> Result<(PathBuf, File), Problem> {
    let kind = fs::metadata(place)?.file_type();
    if kind.is_dir() {
        let found = RegularFile::find(place, DISK_IMG, Links::None)?;
        let file = open(&found, writable, flags)?;
        return Ok((found.path, file));
    }
    if !kind.is_block_device() {
        return Err(Problem::NoVolume);
    }
    use std::os::unix::fs::OpenOptionsExt;
    let file = File::options()
        .read(true)
        .write(writable)
        .custom_flags(flags.bits())
        .open(place)?;
    Ok((place.canonicalize()?, file))
}

/// Opens it; where that is not allowed, the owner and the mode say what has to change.
fn open(found: &RegularFile, writable: bool, flags: OFlag) -> Result<File, Problem> {
    use std::os::unix::fs::MetadataExt;
    let denied = |problem: &safe_path::Problem| match problem {
        safe_path::Problem::Open(error) => error.kind() == io::ErrorKind::PermissionDenied,
        _ => false,
    };
    match found.open(writable, flags) {
        Err(problem) if denied(&problem) => {
            let about = fs::metadata(&found.path)?;
            Err(Problem::Denied {
                file: found
                    .path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                uid: about.uid(),
                gid: about.gid(),
                mode: about.mode() & 0o7777,
                write: writable,
            })
        }
        opened => Ok(opened?),
    }
}

/// Two secrets may have the same keys, so each has its own place.
fn seed_files(
    places: &Places,
    cloud_init: &CloudInit,
    guest: &GuestSpec,
    (name, place): (&str, &Path),
) -> Result<(VolumeLabel, Files), Problem> {
    let at = |place: PathBuf| move |problem| Problem::At { place, problem };
    let content = |data: &Option<SeedData>, place: &Path, keys: &[&str]| match data {
        None => Ok(None),
        Some(SeedData::Inline(text)) => Ok(Some(text.0.clone())),
        Some(SeedData::Secret { .. }) => files::first(place, keys).map(Some),
    };
    let user_data = content(&cloud_init.user_data, place, &["userdata", "userData"])?;
    let of_network = ["networkdata", "networkData"];
    let network_data = match cloud_init.other_secret() {
        None => content(&cloud_init.network_data, place, &of_network)?,
        Some(_) => {
            let place = places.volume(&network_data_volume(name));
            content(&cloud_init.network_data, &place, &of_network).map_err(at(place))?
        }
    };
    let mut public_keys = Vec::new();
    for keys in &cloud_init.public_keys {
        let place = places.volume(&keys.volume());
        public_keys.extend(keys::read(&place).map_err(at(place))?);
    }
    Ok(seed::seed(
        cloud_init.source,
        guest,
        user_data.unwrap_or_default(),
        network_data,
        &public_keys,
    ))
}

/// A raw disk that is nobody else's, where that is to be so.
fn raw(file: &mut File, disk: &Disk, lock: bool) -> Result<(), Problem> {
    raw_size(file)?;
    if lock && locks::is_locked(file, !disk.readonly)? {
        return Err(Problem::Locked);
    }
    Ok(())
}

/// The size of a raw disk. One that looks like an image of another type is more likely that than a disk that begins so.
fn raw_size(file: &mut File) -> Result<u64, Problem> {
    let (head, size) = head(file)?;
    match other_type(&head, file, size)? {
        Some(name) => Err(Problem::NotRaw(name)),
        None if head.starts_with(&qcow2::MAGIC) => Err(Problem::NotRaw("qcow2")),
        None => whole_sectors(size),
    }
}

/// The type and the disk's size of an image from outside.
fn either_type(file: &mut File) -> Result<(ImageType, u64), Problem> {
    let (head, size) = head(file)?;
    if head.starts_with(&qcow2::MAGIC) {
        return Ok((
            ImageType::Qcow2,
            whole_sectors(qcow2::virtual_size(&head, size)?)?,
        ));
    }
    match other_type(&head, file, size)? {
        Some(name) => Err(Problem::Unknown(name)),
        None => Ok((ImageType::Raw, whole_sectors(size)?)),
    }
}

fn whole_sectors(size: u64) -> Result<u64, Problem> {
    match size {
        0 => Err(Problem::Empty),
        size if size % SECTOR == 0 => Ok(size),
        size => Err(Problem::Sectors(size)),
    }
}

#[cfg(test)]
#[path = "find_tests.rs"]
mod tests;

//! Files and folders that are this user's own: caches of prompts and of weights lie where others may have
//! been before.
//!
//! Nothing is opened through a link, and nothing that is no plain file or another user's.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::Path;

/// Creates a folder that only its owner may look into, and those it lies in.
///
/// # Errors
/// As the file system says, also where a link has its place.
pub fn create_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Opens a file for reading.
///
/// # Errors
/// As the file system says; `PermissionDenied` for what is no plain file of this user.
pub fn open(path: &Path) -> io::Result<File> {
    open_own(path, OpenOptions::new().read(true))
}

/// Opens a file for writing over what it holds.
///
/// # Errors
/// As [`open`].
pub fn open_to_overwrite(path: &Path) -> io::Result<File> {
    open_own(path, OpenOptions::new().write(true))
}

/// Creates a file that only its owner may read.
///
/// # Errors
/// As the file system says, also where anything has its place.
pub fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn open_own(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    kernels::host::refuse_links(options);
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && is_own(&metadata) {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is no plain file of this user"))
}

/// Whether it belongs to this user.
pub fn is_own(metadata: &Metadata) -> bool {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::uid(metadata) == kernels::host::user_id();
    #[cfg(not(unix))]
    return !metadata.is_symlink();
}

/// Whether others may do any of `mode` to it: 0o022 to write, 0o077 anything.
pub fn is_open_to_others(metadata: &Metadata, mode: u32) -> bool {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::mode(metadata) & mode != 0;
    #[cfg(not(unix))]
    return mode == 0 && metadata.is_symlink();
}

/// Lets only its owner look into a folder.
///
/// # Errors
/// As the file system says.
pub fn close_to_others(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    return fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o700));
    #[cfg(not(unix))]
    return folder.metadata().map(|_| ());
}

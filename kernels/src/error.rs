//! The one error type of this crate.

/// Why a weight could not be taken in. Ops themselves cannot fail: shapes are the caller's promise
/// and are asserted.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A format that exists in files but has no kernel here.
    #[error("tensor format {0} is not supported; convert the file to one of Q4_K_M, Q8_0 or F16")]
    UnsupportedFormat(String),
    /// The byte count does not match shape and format.
    #[error("tensor of {rows}x{columns} {format} needs {needed} bytes, {found} given")]
    SizeMismatch { rows: usize, columns: usize, format: &'static str, needed: usize, found: usize },
    /// A row length that the format cannot hold.
    #[error("rows of {columns} values do not divide into blocks of {block} ({format})")]
    PartialBlock { columns: usize, block: usize, format: &'static str },
    /// The system gives no more memory.
    #[error("the system has no {bytes} bytes of memory left; take a smaller model or a smaller format")]
    OutOfMemory { bytes: usize },
    /// Reading or mapping a file failed.
    #[error("cannot map {path}: {source}")]
    Map { path: String, source: std::io::Error },
}

//! The checked contents of a GGUF header: metadata and where each tensor lies.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::super::{TensorEntry, tensor_type};
use super::MAGIC;
use super::cursor::{Cursor, Reason};
use super::value::Value;

/// Limits far above any real file, so that a hostile one costs neither time nor memory. Nothing before
/// the tensor data lies behind the first `HEADER_BYTES_MAX` bytes (a vocabulary of 256k takes 6 MB).
const HEADER_BYTES_MAX: usize = 32 << 20;
const KEYS_MAX: usize = 1 << 16;
const TENSORS_MAX: usize = 1 << 18;
const KEY_BYTES_MAX: usize = (1 << 16) - 1;
const NAME_BYTES_MAX: usize = 1 << 10;
const DIMENSIONS_MAX: u32 = 4;
const ALIGNMENT_MAX: u32 = 1 << 16;
const ALIGNMENT_DEFAULT: u32 = 32;

/// Everything before the tensor data.
#[derive(Debug)]
pub struct Directory {
    pub version: u32,
    pub metadata: BTreeMap<String, Value>,
    pub tensors: Vec<TensorEntry>,
    /// Index into `tensors`.
    pub by_name: HashMap<String, usize>,
}

impl Directory {
    /// Parses and checks a whole file.
    ///
    /// # Errors
    /// The first reason to refuse it.
    pub fn parse(file: &[u8]) -> Result<Directory, Reason> {
        let mut cursor = match file.get(..HEADER_BYTES_MAX) {
            Some(header) => Cursor::new(header, "the 32 MiB a header may take"),
            None => Cursor::new(file, "the file"),
        };
        let version = parse_version(&mut cursor)?;
        // The smallest description: name length, dimension count, type, offset.
        let tensor_count = cursor.count("tensors", 8 + 4 + 4 + 8, TENSORS_MAX)?;
        // The smallest pair: key length, type, one byte.
        let key_count = cursor.count("metadata keys", 8 + 4 + 1, KEYS_MAX)?;
        let metadata = parse_metadata(&mut cursor, key_count)?;
        let mut tensors = Vec::with_capacity(tensor_count);
        for _ in 0..tensor_count {
            tensors.push(parse_tensor(&mut cursor)?);
        }
        place_tensors(&mut tensors, data_start(&cursor, &metadata)?, file.len())?;
        let by_name = index_by_name(&tensors)?;
        refuse_overlaps(&tensors)?;
        Ok(Directory { version, metadata, tensors, by_name })
    }
}

fn parse_version(cursor: &mut Cursor<'_>) -> Result<u32, Reason> {
    if cursor.array()? != *MAGIC {
        return Err("does not start with the GGUF magic: not a GGUF file".into());
    }
    match cursor.u32()? {
        version @ 2..=3 => Ok(version),
        // Versions are small, so one with a zero low half was written in the other byte order.
        version if version & 0xffff == 0 && version != 0 => {
            Err("is a big-endian GGUF file; convert it with `gguf_convert_endian`".into())
        }
        version => Err(format!("is GGUF version {version}; versions 2 and 3 can be read")),
    }
}

fn parse_metadata(cursor: &mut Cursor<'_>, count: usize) -> Result<BTreeMap<String, Value>, Reason> {
    let mut metadata = BTreeMap::new();
    for _ in 0..count {
        let key = cursor.text("a metadata key", KEY_BYTES_MAX)?;
        let value = Value::parse(cursor).map_err(|reason| format!("metadata `{key}`: {reason}"))?;
        if metadata.insert(key.to_owned(), value).is_some() {
            return Err(format!("metadata `{key}` occurs twice"));
        }
    }
    Ok(metadata)
}

/// One description; its range is still relative to the tensor data.
fn parse_tensor(cursor: &mut Cursor<'_>) -> Result<TensorEntry, Reason> {
    let name = cursor.text("a tensor name", NAME_BYTES_MAX)?.to_owned();
    let context = |reason: Reason| format!("tensor `{name}`: {reason}");
    let shape = parse_shape(cursor).map_err(context)?;
    let number = cursor.u32().map_err(context)?;
    let kind = tensor_type::of_gguf_number(number)
        .ok_or_else(|| context(format!("type number {number} is unknown or withdrawn")))?;
    let start = cursor.length().map_err(context)?;
    let bytes = kind.bytes(&shape).map_err(context)?;
    let end = start.checked_add(bytes).ok_or_else(|| context(format!("offset {start} overflows")))?;
    Ok(TensorEntry { name, kind, shape, range: start..end })
}

/// Dimensions, turned outermost first.
fn parse_shape(cursor: &mut Cursor<'_>) -> Result<Vec<usize>, Reason> {
    let dimensions = cursor.u32()?;
    if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
        return Err(format!("{dimensions} dimensions; 1 to {DIMENSIONS_MAX} are allowed"));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        shape.push(cursor.length()?);
    }
    shape.reverse();
    Ok(shape)
}

/// Where tensor data begins, and the alignment of each tensor in it.
fn data_start(cursor: &Cursor<'_>, metadata: &BTreeMap<String, Value>) -> Result<(usize, usize), Reason> {
    let alignment = match metadata.get("general.alignment") {
        None => u64::from(ALIGNMENT_DEFAULT),
        Some(Value::Unsigned(alignment)) => *alignment,
        Some(other) => return Err(format!("metadata `general.alignment` is {}", other.describe())),
    };
    if !alignment.is_power_of_two() || alignment > u64::from(ALIGNMENT_MAX) {
        return Err(format!("alignment {alignment} is no power of two up to {ALIGNMENT_MAX}"));
    }
    let alignment = alignment as usize;
    let start = cursor.position().checked_next_multiple_of(alignment);
    Ok((start.ok_or("the header is as long as memory")?, alignment))
}

/// Turns ranges relative to the data into ranges of the file, checking each.
fn place_tensors(
    tensors: &mut [TensorEntry],
    (data_start, alignment): (usize, usize),
    file_bytes: usize,
) -> Result<(), Reason> {
    for tensor in tensors {
        let Range { start, end } = tensor.range;
        if !start.is_multiple_of(alignment) {
            return Err(format!("tensor `{}`: offset {start} is not aligned to {alignment}", tensor.name));
        }
        // `start <= end`, so only the end can overflow.
        match end.checked_add(data_start) {
            Some(end) if end <= file_bytes => tensor.range = start + data_start..end,
            _ => {
                return Err(format!(
                    "truncated: tensor `{}` ends {end} bytes after byte {data_start}, the file has {file_bytes}",
                    tensor.name
                ));
            }
        }
    }
    Ok(())
}

fn index_by_name(tensors: &[TensorEntry]) -> Result<HashMap<String, usize>, Reason> {
    let mut by_name = HashMap::with_capacity(tensors.len());
    for (index, tensor) in tensors.iter().enumerate() {
        if by_name.insert(tensor.name.clone(), index).is_some() {
            return Err(format!("tensor `{}` occurs twice", tensor.name));
        }
    }
    Ok(by_name)
}

fn refuse_overlaps(tensors: &[TensorEntry]) -> Result<(), Reason> {
    let mut by_start: Vec<&TensorEntry> = tensors.iter().collect();
    by_start.sort_by_key(|tensor| tensor.range.start);
    for pair in by_start.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            return Err(format!("tensors `{}` and `{}` overlap", pair[0].name, pair[1].name));
        }
    }
    Ok(())
}

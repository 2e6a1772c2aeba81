//! The directory of one safetensors file: an 8-byte length, a JSON header, tensor data.
//!
//! The `safetensors` crate parses the header and checks that tensors follow each other without gap or
//! overlap and that shapes match sizes; here the header is bounded first, and the whole is checked
//! against the file.

use std::collections::HashSet;
use std::fmt;

use safetensors::tensor::Metadata;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::gguf::cursor::Reason;
use super::{TensorEntry, tensor_type};

/// Far above real headers (about 100 bytes a tensor), so that parsing costs little memory and time.
const HEADER_BYTES_MAX: usize = 16 << 20;
const DIMENSIONS_MAX: usize = 8;

/// Every tensor of `file`, in file order.
///
/// # Errors
/// The first reason to refuse the file.
pub fn parse(file: &[u8]) -> Result<Vec<TensorEntry>, Reason> {
    let (header, data_start) = header(file)?;
    refuse_duplicates(header)?;
    let metadata: Metadata = serde_json::from_slice(header).map_err(|error| format!("header: {error}"))?;
    match data_start.checked_add(metadata.data_len()) {
        Some(end) if end == file.len() => {}
        Some(end) if end < file.len() => {
            return Err(format!("{} bytes follow the last tensor", file.len() - end));
        }
        _ => {
            let (needed, found) = (metadata.data_len(), file.len() - data_start);
            return Err(format!("truncated: {needed} bytes of tensors are announced, {found} are there"));
        }
    }
    metadata.offset_keys().into_iter().map(|name| entry(name, &metadata, data_start)).collect()
}

/// The JSON header, and where tensor data begins.
fn header(file: &[u8]) -> Result<(&[u8], usize), Reason> {
    let (length, rest) = file.split_first_chunk().ok_or("truncated: shorter than a header's length")?;
    let length = u64::from_le_bytes(*length);
    let bytes = usize::try_from(length).ok().filter(|bytes| *bytes <= HEADER_BYTES_MAX);
    let bytes = bytes.ok_or_else(|| {
        format!("header of {length} bytes, more than the {HEADER_BYTES_MAX} allowed: not a safetensors file")
    })?;
    let header = rest.get(..bytes).ok_or_else(|| {
        format!("truncated: a header of {bytes} bytes is announced, {} are there", rest.len())
    })?;
    Ok((header, size_of::<u64>() + bytes))
}

fn entry(name: String, metadata: &Metadata, data_start: usize) -> Result<TensorEntry, Reason> {
    let info = metadata.info(&name).expect("offset_keys lists the directory's own names");
    let type_name = info.dtype.to_string();
    let kind = tensor_type::of_safetensors_name(&type_name)
        .ok_or_else(|| format!("tensor `{name}`: type {type_name} is unknown"))?;
    if info.shape.contains(&0) {
        return Err(format!("tensor `{name}`: shape {:?} holds no values", info.shape));
    }
    if info.shape.len() > DIMENSIONS_MAX {
        return Err(format!("tensor `{name}`: {} dimensions, at most {DIMENSIONS_MAX}", info.shape.len()));
    }
    // No overflow: ends are at most `data_len`, and `parse` has added that to `data_start`.
    let range = data_start + info.data_offsets.0..data_start + info.data_offsets.1;
    Ok(TensorEntry { name, kind, shape: info.shape.clone(), range })
}

/// A JSON map may repeat a name; readers then disagree which tensor it means.
fn refuse_duplicates(header: &[u8]) -> Result<(), Reason> {
    let mut json = serde_json::Deserializer::from_slice(header);
    json.deserialize_map(DistinctKeys).map_err(|error| format!("header: {error}"))
}

struct DistinctKeys;

impl<'de> Visitor<'de> for DistinctKeys {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value::<IgnoredAny>()?;
            if let Some(name) = seen.replace(name) {
                return Err(serde::de::Error::custom(format!("tensor `{name}` occurs twice")));
            }
        }
        Ok(())
    }
}

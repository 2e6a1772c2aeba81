//! The directory of one safetensors file: an 8-byte length, a JSON header, tensor data.
//!
//! The `safetensors` crate knows the header's types and checks that tensors follow each other without
//! gap or overlap and that shapes match sizes. Here the header is bounded before it is parsed, names may
//! not repeat, and the whole is checked against the file.

use std::collections::HashMap;
use std::fmt;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::gguf::cursor::Reason;
use super::{TensorEntry, tensor_type};

/// Far above real headers (about 100 bytes a tensor), so that parsing costs little memory and time.
const HEADER_BYTES_MAX: usize = 8 << 20;
const DIMENSIONS_MAX: usize = 8;

/// Every tensor of `file`, in file order.
///
/// # Errors
/// The first reason to refuse the file.
pub fn parse(file: &[u8]) -> Result<Vec<TensorEntry>, Reason> {
    let (header, data_start) = header(file)?;
    let metadata = directory(header)?;
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

/// The header's tensors, checked against each other.
fn directory(header: &[u8]) -> Result<Metadata, Reason> {
    let mut json = serde_json::Deserializer::from_slice(header);
    let parsed = json.deserialize_map(Tensors).and_then(|tensors| json.end().map(|()| tensors));
    let mut tensors: Vec<_> = parsed.map_err(|error| format!("header: {error}"))?.into_iter().collect();
    tensors.sort_by_key(|(_, tensor)| tensor.data_offsets);
    Metadata::new(None, tensors).map_err(|error| error.to_string())
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

/// Reads the header's map tensor by tensor. The crate's own way keeps all of it as generic values first,
/// many times its size, and lets the last of two equal names win, where readers disagree.
struct Tensors;

impl<'de> Visitor<'de> for Tensors {
    type Value = HashMap<String, TensorInfo>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut tensors = HashMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let tensor = map.next_value().map_err(|error| M::Error::custom(format!("`{name}`: {error}")))?;
            if tensors.contains_key(&name) {
                return Err(M::Error::custom(format!("tensor `{name}` occurs twice")));
            }
            tensors.insert(name, tensor);
        }
        Ok(tensors)
    }
}

//! SentencePiece's compiled normaliser, checked before use.
//!
//! It is a trie in one array (Darts-clone's double array) followed by the replacement texts, end to end,
//! NUL after each. The library that walks it trusts every offset in it; a file's must be looked at first.
//!
//! Layout: length of the array in bytes (u32), that many bytes of u32 units, then UTF-8 text.

use std::collections::HashSet;

/// Eight times the size of the published ones.
const BYTES_MAX: usize = 2 << 20;

/// Checks that no text can lead the walk out of the array or to a replacement that is none.
pub(crate) fn check(charsmap: &[u8]) -> Result<(), String> {
    if charsmap.len() > BYTES_MAX {
        return Err(format!("{} bytes; at most {BYTES_MAX} are read", charsmap.len()));
    }
    let (length, rest) = charsmap.split_first_chunk::<4>().ok_or("it is cut short")?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| "its array is too long")?;
    let (array, texts) = rest.split_at_checked(length / 4 * 4).ok_or("its array is cut short")?;
    let texts = std::str::from_utf8(texts).map_err(|_| "its replacements are not UTF-8")?;
    let units: Vec<Unit> =
        array.as_chunks::<4>().0.iter().map(|bytes| Unit(u32::from_le_bytes(*bytes))).collect();
    let root = units.first().ok_or("its array is empty")?;
    walk(&units, root.offset(), texts)
}

/// Visits every node a byte can lead to.
fn walk(units: &[Unit], root: usize, texts: &str) -> Result<(), String> {
    let (mut seen, mut waiting) = (HashSet::from([root]), vec![root]);
    while let Some(base) = waiting.pop() {
        for byte in 1..=u8::MAX {
            let at = base ^ usize::from(byte);
            let unit = units.get(at).ok_or("an offset leads out of its array")?;
            if !unit.is_labelled(byte) {
                continue;
            }
            let next = at ^ unit.offset();
            if unit.has_value() {
                let value = units.get(next).ok_or("a value lies outside its array")?.value();
                if !texts.is_char_boundary(value) {
                    return Err("a replacement starts inside a character or outside its texts".into());
                }
            }
            if seen.insert(next) {
                waiting.push(next);
            }
        }
    }
    Ok(())
}

/// One unit of a double array: label or value, offset to the children, whether one is a value.
#[derive(Clone, Copy)]
struct Unit(u32);

impl Unit {
    fn has_value(self) -> bool {
        self.0 >> 8 & 1 == 1
    }

    fn value(self) -> usize {
        (self.0 & 0x7fff_ffff) as usize
    }

    fn is_labelled(self, byte: u8) -> bool {
        self.0 & (1 << 31 | 0xff) == u32::from(byte)
    }

    fn offset(self) -> usize {
        ((self.0 >> 10) as usize) << ((self.0 & 1 << 9) >> 6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root and one block of 256 units; `a` leads to the value `value`, which lies at 256.
    fn charsmap(root: u32, value: u32, texts: &[u8]) -> Vec<u8> {
        let mut units = vec![0u32; 512];
        units[0] = root;
        let a = usize::from(b'a');
        units[a] = u32::from(b'a') | 1 << 8 | ((a as u32 ^ 256) << 10);
        units[256] = value | 1 << 31;
        let mut bytes = (units.len() as u32 * 4).to_le_bytes().to_vec();
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(texts);
        bytes
    }

    #[test]
    fn damaged_normalisers_are_refused() {
        let check = |bytes: &[u8], expected: &str| {
            let found = super::check(bytes).err().unwrap_or_default();
            assert!(
                found.contains(expected) && found.is_empty() == expected.is_empty(),
                "{found} / {expected}"
            );
        };
        check(&charsmap(0, 0, b"b\0"), "");
        check(&charsmap(0, 2, b"b\0"), "");
        check(&charsmap(0, 3, b"b\0"), "outside its texts");
        check(&charsmap(0, 1, "é\0".as_bytes()), "inside a character");
        check(&charsmap(0, 0, b"\xff"), "not UTF-8");
        check(&charsmap(512 << 10, 0, b"b\0"), "out of its array");
        check(&charsmap(u32::MAX, 0, b"b\0"), "out of its array");
        check(&charsmap(0, 0, b"")[..100], "cut short");
        check(&[], "cut short");
        check(&[0; 4], "empty");
        check(&vec![0; BYTES_MAX + 1], "at most");
    }
}

//! One page on disk: what is written, and everything that is checked before it is believed.
//!
//! Little-endian. A head of [`HEAD_BYTES`] bytes, a check of [`CHECK_BYTES`], then the content, in the clear
//! or encrypted with AES-256-GCM:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `JANUSKV` and the version of this format |
//! | 4 | 1 if encrypted, else 0 |
//! | 4 | tokens of the page |
//! | 32 | name of the model: its file, its quantisation, the layout of its cache |
//! | 32 | seal of the chain's root on this page: the tenant, or public |
//! | 32 | name of the page |
//! | 12 | nonce, drawn at random for every page written |
//! | 8 | length of the content |
//!
//! Names and seal are made with a secret (`secret.rs`) and tell nothing to who lacks it.
//!
//! The check covers head and content: the tag of AES-GCM under a key, XXH3 (128 bits) without. Without a
//! key, whoever can write the file could make any check; what it has to find is damage, and XXH3 does that
//! at the speed of memory, where SHA-256 took longer than reading.

use std::ops::Range;

use aes_gcm::aead::{AeadInOut, Generate, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use kernels::PAGE_TOKENS;
use twox_hash::XxHash3_128;

use super::StoreKey;
use crate::pages::ChainHash;

const MAGIC: [u8; 8] = *b"JANUSKV\x03";
const HEAD_BYTES: usize = 8 + 4 + 4 + 3 * 32 + 12 + 8;
const CHECK_BYTES: usize = 16;
/// Where the content begins.
const CONTENT: usize = HEAD_BYTES + CHECK_BYTES;

/// Which page a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageId {
    pub model: [u8; 32],
    /// Root of its chain.
    pub root: ChainHash,
    pub hash: ChainHash,
}

/// Why a record was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("it is no page of this format")]
    Format,
    #[error("it has the wrong length")]
    Length,
    #[error("it is damaged")]
    Damaged,
    #[error("it is of another model, tenant or prompt")]
    Another,
    #[error("it is encrypted and no key is configured, or the other way round")]
    Encryption,
    #[error("it is damaged, or was encrypted with another key")]
    Key,
}

/// Length of the record of a page of `content` bytes.
pub fn record_bytes(content: usize) -> usize {
    CONTENT + content
}

/// The record of a page: (what stands before the content, the content as it is stored).
pub fn encode(id: &PageId, mut content: Vec<u8>, key: Option<&StoreKey>) -> (Vec<u8>, Vec<u8>) {
    let nonce = Nonce::generate();
    let mut head = Vec::with_capacity(CONTENT);
    head.extend(MAGIC);
    head.extend(u32::from(key.is_some()).to_le_bytes());
    head.extend((PAGE_TOKENS as u32).to_le_bytes());
    head.extend(id.model);
    head.extend(id.root.seal(&id.hash));
    head.extend(id.hash.0);
    head.extend(nonce);
    head.extend((content.len() as u64).to_le_bytes());
    let check: [u8; CHECK_BYTES] = match key {
        Some(key) => {
            let tag = cipher(key).encrypt_inout_detached(&nonce, &head, content.as_mut_slice().into());
            tag.expect("a page is shorter than AES-GCM allows").into()
        }
        None => checksum(&head, &content),
    };
    head.extend(check);
    (head, content)
}

/// Where the content is in a record, if that is a whole one of page `id` with `content_bytes` bytes; it is
/// decrypted where it stands.
pub fn decode(
    record: &mut [u8],
    id: &PageId,
    content_bytes: usize,
    key: Option<&StoreKey>,
) -> Result<Range<usize>, RecordError> {
    let is_complete = record.len() == record_bytes(content_bytes);
    let (head, rest) = record.split_at_mut_checked(HEAD_BYTES).ok_or(RecordError::Length)?;
    let mut fields = Fields(head);
    if fields.take::<8>() != MAGIC {
        return Err(RecordError::Format);
    }
    let encrypted = fields.take::<4>() != [0; 4];
    let is_of_page_tokens = fields.take::<4>() == (PAGE_TOKENS as u32).to_le_bytes();
    let named = [fields.take::<32>(), fields.take::<32>(), fields.take::<32>()];
    if !is_of_page_tokens || named != [id.model, id.root.seal(&id.hash), id.hash.0] {
        return Err(RecordError::Another);
    }
    if encrypted != key.is_some() {
        return Err(RecordError::Encryption);
    }
    let nonce = fields.take::<12>();
    if fields.take::<8>() != (content_bytes as u64).to_le_bytes() || !is_complete {
        return Err(RecordError::Length);
    }
    let (check, content) = rest.split_first_chunk_mut::<CHECK_BYTES>().ok_or(RecordError::Length)?;
    match key {
        Some(key) => {
            let (nonce, tag) = (Nonce::from(nonce), Tag::from(*check));
            let decrypted = cipher(key).decrypt_inout_detached(&nonce, head, content.into(), &tag);
            decrypted.map_err(|_| RecordError::Key)?;
        }
        None if *check != checksum(head, content) => return Err(RecordError::Damaged),
        None => {}
    }
    Ok(CONTENT..record.len())
}

/// Cuts a checked head into its fields.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("a head has room for its fields");
        self.0 = rest;
        *field
    }
}

fn cipher(key: &StoreKey) -> Aes256Gcm {
    Aes256Gcm::new(&key.0.into())
}

fn checksum(head: &[u8], content: &[u8]) -> [u8; CHECK_BYTES] {
    // The head's own goes in as the seed: nothing has to be copied together.
    let seed = XxHash3_128::oneshot(head) as u64;
    XxHash3_128::oneshot_with_seed(seed, content).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: std::ops::Range<usize> = HEAD_BYTES - 20..HEAD_BYTES - 8;

    fn id() -> PageId {
        PageId { model: [1; 32], root: ChainHash([2; 32]), hash: ChainHash([3; 32]) }
    }

    fn content() -> Vec<u8> {
        (0..1000u32).map(|i| (i * 7) as u8).collect()
    }

    fn record(key: Option<&StoreKey>) -> Vec<u8> {
        let (head, content) = encode(&id(), content(), key);
        assert_eq!(head.len(), CONTENT);
        [head, content].concat()
    }

    /// The content of a record that is believed.
    fn read(mut record: Vec<u8>, id: &PageId, key: Option<&StoreKey>) -> Result<Vec<u8>, RecordError> {
        decode(&mut record, id, 1000, key).map(|content| record[content].to_vec())
    }

    #[test]
    fn comes_back_as_it_was() {
        for key in [None, Some(StoreKey([9; 32]))] {
            let record = record(key.as_ref());
            assert_eq!(record.len(), record_bytes(1000));
            assert_eq!(record.windows(16).any(|bytes| bytes == &content()[..16]), key.is_none());
            assert_eq!(read(record, &id(), key.as_ref()), Ok(content()));
        }
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        for key in [None, Some(StoreKey([9; 32]))] {
            let record = record(key.as_ref());
            for place in 0..record.len() {
                let mut changed = record.clone();
                changed[place] ^= 0x10;
                assert!(read(changed, &id(), key.as_ref()).is_err(), "byte {place}");
                assert!(read(record[..place].to_vec(), &id(), key.as_ref()).is_err(), "cut at {place}");
            }
            let longer = [record.as_slice(), &[0]].concat();
            assert_eq!(read(longer, &id(), key.as_ref()), Err(RecordError::Length));
        }
    }

    #[test]
    fn another_page_another_key_and_a_forged_name_are_refused() {
        let key = StoreKey([9; 32]);
        let others = [
            PageId { model: [5; 32], ..id() },
            PageId { root: ChainHash([5; 32]), ..id() },
            PageId { hash: ChainHash([5; 32]), ..id() },
        ];
        let mut older = record(None);
        older[MAGIC.len() - 1] -= 1;
        assert_eq!(read(older, &id(), None), Err(RecordError::Format), "of an earlier version");
        for other in others {
            assert_eq!(read(record(None), &other, None), Err(RecordError::Another));
        }
        let shorter = decode(&mut record(None), &id(), 998, None);
        assert_eq!(shorter, Err(RecordError::Length));
        assert_eq!(read(record(None), &id(), Some(&key)), Err(RecordError::Encryption));
        assert_eq!(read(record(Some(&key)), &id(), None), Err(RecordError::Encryption));
        let wrong = StoreKey([8; 32]);
        assert_eq!(read(record(Some(&key)), &id(), Some(&wrong)), Err(RecordError::Key));
        // Whoever can write files can give a page another's name, but the key has signed its own.
        let mut renamed = record(Some(&key));
        renamed[16..48].copy_from_slice(&[5; 32]);
        let other = PageId { model: [5; 32], ..id() };
        assert_eq!(read(renamed, &other, Some(&key)), Err(RecordError::Key));
    }

    #[test]
    fn nonces_differ() {
        let key = StoreKey([9; 32]);
        assert_ne!(record(Some(&key))[NONCE], record(Some(&key))[NONCE]);
    }
}

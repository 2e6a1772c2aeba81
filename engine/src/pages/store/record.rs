//! One page on disk: what is written, and everything that is checked before it is believed.
//!
//! Little-endian. A head of [`HEAD_BYTES`] bytes, SHA-256 of head and content, then the content, in the
//! clear or as AES-256-GCM with the head as associated data:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `JANUSKV` and the version of this format |
//! | 4 | 1 if encrypted, else 0 |
//! | 4 | tokens of the page |
//! | 32 | identity of the model: its file, its quantisation, the layout of its cache |
//! | 32 | digest of the chain's root: the tenant, or public |
//! | 32 | name of the page |
//! | 12 | nonce, drawn at random for every page written |
//! | 8 | length of the content as it is stored |

use aes_gcm::aead::{AeadInOut, Generate, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use kernels::PAGE_TOKENS;
use sha2::{Digest, Sha256};

use super::StoreKey;
use crate::pages::ChainHash;

const MAGIC: [u8; 8] = *b"JANUSKV\x01";
const HEAD_BYTES: usize = 8 + 4 + 4 + 3 * 32 + 12 + 8;
const DIGEST_BYTES: usize = 32;
/// Of AES-GCM.
const TAG_BYTES: usize = 16;

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
    #[error("it was encrypted with another key")]
    Key,
}

/// Length of the record of a page of `content` bytes.
pub fn record_bytes(content: usize, encrypted: bool) -> usize {
    HEAD_BYTES + DIGEST_BYTES + content + if encrypted { TAG_BYTES } else { 0 }
}

/// The record of a page: (what stands before the content, the content as it is stored).
pub fn encode(id: &PageId, mut content: Vec<u8>, key: Option<&StoreKey>) -> (Vec<u8>, Vec<u8>) {
    let nonce = Nonce::generate();
    let length = content.len() + if key.is_some() { TAG_BYTES } else { 0 };
    let mut head = Vec::with_capacity(HEAD_BYTES + DIGEST_BYTES);
    head.extend(MAGIC);
    head.extend(u32::from(key.is_some()).to_le_bytes());
    head.extend((PAGE_TOKENS as u32).to_le_bytes());
    head.extend(id.model);
    head.extend(id.root.digest());
    head.extend(id.hash.0);
    head.extend(nonce);
    head.extend((length as u64).to_le_bytes());
    if let Some(key) = key {
        let encrypted = cipher(key).encrypt_in_place(&nonce, &head, &mut content);
        encrypted.expect("a page is shorter than AES-GCM allows");
    }
    head.extend(digest(&head, &content));
    (head, content)
}

/// The content of a record, if it is a whole one of page `id` with `content_bytes` bytes.
pub fn decode(
    mut record: Vec<u8>,
    id: &PageId,
    content_bytes: usize,
    key: Option<&StoreKey>,
) -> Result<Vec<u8>, RecordError> {
    let head = record.get(..HEAD_BYTES).ok_or(RecordError::Length)?;
    let mut fields = Fields(head);
    if fields.take::<8>() != MAGIC {
        return Err(RecordError::Format);
    }
    let encrypted = fields.take::<4>() != [0; 4];
    let is_of_page_tokens = fields.take::<4>() == (PAGE_TOKENS as u32).to_le_bytes();
    let named = [fields.take::<32>(), fields.take::<32>(), fields.take::<32>()];
    if !is_of_page_tokens || named != [id.model, id.root.digest(), id.hash.0] {
        return Err(RecordError::Another);
    }
    if encrypted != key.is_some() {
        return Err(RecordError::Encryption);
    }
    let nonce = fields.take::<12>();
    let stored = (record.len() - HEAD_BYTES).checked_sub(DIGEST_BYTES).ok_or(RecordError::Length)?;
    if fields.take::<8>() != (stored as u64).to_le_bytes()
        || record.len() != record_bytes(content_bytes, encrypted)
    {
        return Err(RecordError::Length);
    }
    let content = record.split_off(HEAD_BYTES + DIGEST_BYTES);
    let (head, stored_digest) = record.split_at(HEAD_BYTES);
    if stored_digest != digest(head, &content) {
        return Err(RecordError::Damaged);
    }
    decrypt(content, head, nonce, key)
}

fn decrypt(
    mut content: Vec<u8>,
    head: &[u8],
    nonce: [u8; 12],
    key: Option<&StoreKey>,
) -> Result<Vec<u8>, RecordError> {
    if let Some(key) = key {
        let decrypted = cipher(key).decrypt_in_place(&Nonce::from(nonce), head, &mut content);
        decrypted.map_err(|_| RecordError::Key)?;
    }
    Ok(content)
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

fn digest(head: &[u8], content: &[u8]) -> [u8; DIGEST_BYTES] {
    Sha256::new().chain_update(head).chain_update(content).finalize().into()
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
        assert_eq!(head.len(), HEAD_BYTES + DIGEST_BYTES);
        [head, content].concat()
    }

    fn sealed_again(mut record: Vec<u8>) -> Vec<u8> {
        let digest = digest(&record[..HEAD_BYTES], &record[HEAD_BYTES + DIGEST_BYTES..]);
        record[HEAD_BYTES..HEAD_BYTES + DIGEST_BYTES].copy_from_slice(&digest);
        record
    }

    #[test]
    fn comes_back_as_it_was() {
        for key in [None, Some(StoreKey([9; 32]))] {
            let record = record(key.as_ref());
            assert_eq!(record.len(), record_bytes(1000, key.is_some()));
            assert_eq!(record.windows(16).any(|bytes| bytes == &content()[..16]), key.is_none());
            assert_eq!(decode(record, &id(), 1000, key.as_ref()), Ok(content()));
        }
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        for key in [None, Some(StoreKey([9; 32]))] {
            let record = record(key.as_ref());
            for place in 0..record.len() {
                let mut changed = record.clone();
                changed[place] ^= 0x10;
                assert!(decode(changed, &id(), 1000, key.as_ref()).is_err(), "byte {place}");
                assert!(
                    decode(record[..place].to_vec(), &id(), 1000, key.as_ref()).is_err(),
                    "cut at {place}"
                );
            }
            let longer = [record.as_slice(), &[0]].concat();
            assert_eq!(decode(longer, &id(), 1000, key.as_ref()), Err(RecordError::Length));
        }
    }

    #[test]
    fn another_page_another_key_and_a_forged_digest_are_refused() {
        let key = StoreKey([9; 32]);
        let others = [
            PageId { model: [5; 32], ..id() },
            PageId { root: ChainHash([5; 32]), ..id() },
            PageId { hash: ChainHash([5; 32]), ..id() },
        ];
        for other in others {
            assert_eq!(decode(record(None), &other, 1000, None), Err(RecordError::Another));
        }
        assert_eq!(decode(record(None), &id(), 1002, None), Err(RecordError::Length));
        assert_eq!(decode(record(None), &id(), 1000, Some(&key)), Err(RecordError::Encryption));
        assert_eq!(decode(record(Some(&key)), &id(), 1000, None), Err(RecordError::Encryption));
        let wrong = StoreKey([8; 32]);
        assert_eq!(decode(record(Some(&key)), &id(), 1000, Some(&wrong)), Err(RecordError::Key));
        // Whoever can write files can also make their digests, but not what the key signs.
        let mut forged = record(Some(&key));
        forged[HEAD_BYTES + DIGEST_BYTES + 5] ^= 1;
        assert_eq!(decode(sealed_again(forged), &id(), 1000, Some(&key)), Err(RecordError::Key));
        let mut renamed = record(Some(&key));
        renamed[16..48].copy_from_slice(&[5; 32]);
        let other = PageId { model: [5; 32], ..id() };
        assert_eq!(decode(sealed_again(renamed), &other, 1000, Some(&key)), Err(RecordError::Key));
    }

    #[test]
    fn nonces_differ() {
        let key = StoreKey([9; 32]);
        assert_ne!(record(Some(&key))[NONCE], record(Some(&key))[NONCE]);
    }
}

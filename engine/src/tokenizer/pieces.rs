//! The bytes each token stands for, decided once at load from the way the vocabulary spells its tokens.

use serde_json::Value;
use tokenizers::Model;

use super::bound::bytes_per_token_max;

/// Bytes and kind of every token, by id.
pub(crate) struct Pieces {
    /// All tokens' bytes, end to end; token `id` is `ends[id - 1]..ends[id]`.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    special: Vec<bool>,
    /// Special tokens' names, longest first.
    special_names: Vec<String>,
    /// Whether a text's first space is only the vocabulary's word mark.
    strips_first_space: bool,
    bytes_per_token_max: Option<usize>,
}

/// How a vocabulary writes bytes as characters.
#[derive(Debug, PartialEq)]
enum Spelling {
    /// GPT-2's: each byte is one printable character.
    ByteLevel,
    /// SentencePiece's: U+2581 is a space; `<0x0A>` is a byte where `byte_fallback`.
    SentencePiece { byte_fallback: bool, strips_first_space: bool },
    /// BERT's: a word starts with a space unless marked as a continuation.
    WordPiece { continuation: String, cleanup: bool },
    /// Original BPE: the end of a word is marked.
    WordEnd { suffix: String },
    /// Words, spaces between them.
    Words,
}

impl Pieces {
    pub(crate) fn of(inner: &tokenizers::Tokenizer) -> Pieces {
        let decoder = inner.get_decoder().and_then(|decoder| serde_json::to_value(decoder).ok());
        let spelling = Spelling::of(&decoder.unwrap_or(Value::Null));
        let names = names_by_id(inner);
        let added = inner.get_added_tokens_decoder();
        let (mut bytes, mut ends, mut special) = (Vec::new(), Vec::new(), Vec::new());
        for (id, name) in (0u32..).zip(&names) {
            let added = added.get(&id);
            match (added, name) {
                (Some(token), _) => bytes.extend(spelling.added(&token.content)),
                (None, Some(name)) => bytes.extend(spelling.bytes(name)),
                (None, None) => {}
            }
            ends.push(bytes.len());
            special.push(added.is_some_and(|token| token.special));
        }
        let mut special_names: Vec<String> =
            added.into_values().filter(|token| token.special).map(|token| token.content).collect();
        special_names.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        bytes.shrink_to_fit();
        Pieces {
            bytes,
            ends,
            special,
            special_names,
            strips_first_space: spelling.strips_first_space(),
            bytes_per_token_max: bytes_per_token_max(inner, &names),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }

    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    pub(crate) fn special_names(&self) -> &[String] {
        &self.special_names
    }

    pub(crate) fn strips_first_space(&self) -> bool {
        self.strips_first_space
    }

    pub(crate) fn bytes_per_token_max(&self) -> Option<usize> {
        self.bytes_per_token_max
    }
}

/// Highest id a vocabulary may name; beyond it a hostile file would make the tables above huge.
const IDS_MAX: u32 = 1 << 22;

/// Names of the model's own tokens; as long as the highest id of those and of added tokens asks for.
fn names_by_id(inner: &tokenizers::Tokenizer) -> Vec<Option<String>> {
    let model = inner.get_model();
    let added = inner.get_added_tokens_decoder().into_keys().filter(|id| *id < IDS_MAX).max();
    let mut left = model.get_vocab_size();
    let mut names = Vec::with_capacity(left.min(IDS_MAX as usize));
    // Ids may have gaps, so the count of tokens does not say the highest.
    for id in 0..IDS_MAX {
        if left == 0 && added.is_none_or(|added| id > added) {
            break;
        }
        let name = model.id_to_token(id);
        left = left.saturating_sub(usize::from(name.is_some()));
        names.push(name);
    }
    while let Some(None) = names.last()
        && added.is_none_or(|added| names.len() > added as usize + 1)
    {
        names.pop();
    }
    names
}

impl Spelling {
    /// Reads it off the decoder section of a tokenizer.
    fn of(decoder: &Value) -> Spelling {
        let mut steps = Vec::new();
        flatten(decoder, &mut steps);
        let step = |kind: &str| steps.iter().copied().find(|step| step["type"] == kind);
        if step("ByteLevel").is_some() {
            return Spelling::ByteLevel;
        }
        if let Some(step) = step("WordPiece") {
            let continuation = step["prefix"].as_str().unwrap_or("##").to_owned();
            return Spelling::WordPiece { continuation, cleanup: step["cleanup"] != false };
        }
        if let Some(step) = step("BPEDecoder") {
            return Spelling::WordEnd { suffix: step["suffix"].as_str().unwrap_or("</w>").to_owned() };
        }
        let byte_fallback = step("ByteFallback").is_some();
        let strip = step("Strip").is_some_and(|step| step["start"].as_u64() > Some(0));
        let metaspace = step("Metaspace").map(|step| step["prepend_scheme"] != "never");
        if metaspace.is_some() || step("Replace").is_some() || byte_fallback {
            let strips_first_space = strip || metaspace == Some(true);
            return Spelling::SentencePiece { byte_fallback, strips_first_space };
        }
        Spelling::Words
    }

    fn strips_first_space(&self) -> bool {
        match self {
            Spelling::ByteLevel | Spelling::WordEnd { .. } => false,
            Spelling::SentencePiece { strips_first_space, .. } => *strips_first_space,
            Spelling::WordPiece { .. } | Spelling::Words => true,
        }
    }

    /// Bytes of a token of the model's own vocabulary.
    fn bytes(&self, name: &str) -> Vec<u8> {
        match self {
            Spelling::ByteLevel => from_byte_level(name),
            Spelling::SentencePiece { byte_fallback, .. } => match byte_token(name) {
                Some(byte) if *byte_fallback => vec![byte],
                _ => name.replace('\u{2581}', " ").into_bytes(),
            },
            Spelling::WordPiece { continuation, cleanup } => {
                let text = match name.strip_prefix(continuation.as_str()) {
                    Some(rest) => rest.to_owned(),
                    None => format!(" {name}"),
                };
                if *cleanup { without_spaces_before_marks(&text).into_bytes() } else { text.into_bytes() }
            }
            Spelling::WordEnd { suffix } => name.replace(suffix.as_str(), " ").into_bytes(),
            Spelling::Words => format!(" {name}").into_bytes(),
        }
    }

    /// Bytes of an added token: its content, as it was found in text.
    fn added(&self, content: &str) -> Vec<u8> {
        match self {
            Spelling::WordPiece { .. } | Spelling::Words => format!(" {content}").into_bytes(),
            _ => content.as_bytes().to_vec(),
        }
    }
}

fn flatten<'a>(decoder: &'a Value, steps: &mut Vec<&'a Value>) {
    steps.push(decoder);
    for inner in decoder["decoders"].as_array().into_iter().flatten() {
        flatten(inner, steps);
    }
}

/// `<0x0A>` is the byte 10.
fn byte_token(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// English contractions and punctuation, as BERT's decoder tidies them.
fn without_spaces_before_marks(text: &str) -> String {
    const MARKS: [(&str, &str); 11] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    MARKS.iter().fold(text.to_owned(), |text, (spaced, tidy)| text.replace(spaced, tidy))
}

/// Bytes of a name in GPT-2's alphabet; a name with any other character stands for itself.
fn from_byte_level(name: &str) -> Vec<u8> {
    name.chars().map(byte_of).collect::<Option<Vec<u8>>>().unwrap_or_else(|| name.as_bytes().to_vec())
}

/// The inverse of GPT-2's byte alphabet: printable Latin-1 is itself, the 68 other bytes follow in
/// order from U+0100 (Radford et al. 2019, `bytes_to_unicode`).
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The character GPT-2's alphabet writes for a byte.
pub(super) fn byte_level_character(byte: u8) -> char {
    let code = match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u32::from(byte),
        0x00..=0x20 => u32::from(byte) + 0x100,
        0x7f..=0xa0 => u32::from(byte) - 0x7f + 0x121,
        0xad => 0x143,
    };
    char::from_u32(code).expect("every code above is a scalar value below U+0144")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_its_own_inverse() {
        for byte in 0..=255u8 {
            assert_eq!(byte_of(byte_level_character(byte)), Some(byte), "{byte}");
        }
        assert_eq!(byte_of('\u{144}'), None);
    }

    #[test]
    fn a_decoder_says_how_tokens_are_spelt() {
        let check = |decoder: &str, name: &str, expected: &[u8]| {
            let decoder: Value = serde_json::from_str(decoder).expect("a row is valid JSON");
            assert_eq!(Spelling::of(&decoder).bytes(name), expected, "{decoder} {name}");
        };
        let llama = r#"{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},
            {"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}"#;
        check(r#"{"type":"ByteLevel"}"#, "ĠÃ©", " é".as_bytes());
        check(r#"{"type":"ByteLevel"}"#, "Ã", &[0xc3]);
        check(llama, "▁the", b" the");
        check(llama, "<0xE9>", &[0xe9]);
        check(llama, "<0xE9x>", b"<0xE9x>");
        check(r#"{"type":"Metaspace","prepend_scheme":"always"}"#, "<0x41>", b"<0x41>");
        check(r#"{"type":"WordPiece","prefix":"@@","cleanup":true}"#, "@@ing", b"ing");
        check(r#"{"type":"WordPiece","prefix":"@@","cleanup":true}"#, ".", b".");
        check(r#"{"type":"WordPiece","prefix":"@@","cleanup":false}"#, ".", b" .");
        check(r#"{"type":"BPEDecoder","suffix":"</w>"}"#, "low</w>", b"low ");
        check("null", "word", b" word");
    }
}

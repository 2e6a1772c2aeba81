//! Token ids to text, one at a time: whole characters only, constant work a token.

use std::sync::Arc;

use super::Tokenizer;

/// Text of a growing sequence of tokens. All texts it returns, [`flush`](Self::flush)'s last,
/// concatenate to the sequence's text.
pub struct StreamDecoder {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
}

impl StreamDecoder {
    /// For tokens generated after a prompt: a leading space is text. `keep_special` renders special
    /// tokens instead of leaving them out.
    pub fn new(tokenizer: Arc<Tokenizer>, keep_special: bool) -> StreamDecoder {
        StreamDecoder { tokenizer, detokenizer: Detokenizer::after_prompt(keep_special) }
    }

    /// For tokens from the start of a text: gives what [`Tokenizer::decode`] gives.
    pub fn at_text_start(tokenizer: Arc<Tokenizer>, keep_special: bool) -> StreamDecoder {
        StreamDecoder { tokenizer, detokenizer: Detokenizer::at_text_start(keep_special) }
    }

    /// The text this token completes; empty while a character is incomplete.
    pub fn push(&mut self, token: u32) -> String {
        let mut text = String::new();
        self.detokenizer.push(&self.tokenizer, token, &mut text);
        text
    }

    /// The end of the text: U+FFFD for a character that stayed incomplete, else nothing.
    pub fn flush(&mut self) -> String {
        let mut text = String::new();
        self.detokenizer.flush(&mut text);
        text
    }
}

/// The state behind [`StreamDecoder`], for callers that hold the tokenizer themselves.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    keep_special: bool,
    /// No text yet, and the first space may be the vocabulary's word mark.
    at_start: bool,
    /// First bytes of a character whose last have not come: at most three.
    pending: Vec<u8>,
}

impl Detokenizer {
    pub fn at_text_start(keep_special: bool) -> Detokenizer {
        Detokenizer { keep_special, at_start: true, pending: Vec::new() }
    }

    pub fn after_prompt(keep_special: bool) -> Detokenizer {
        Detokenizer { keep_special, at_start: false, pending: Vec::new() }
    }

    /// Appends the text `token` completes.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32, text: &mut String) {
        if !self.keep_special && tokenizer.is_special(token) {
            return;
        }
        let mut bytes = tokenizer.token_bytes(token);
        if self.at_start && !bytes.is_empty() {
            self.at_start = false;
            if tokenizer.pieces().strips_first_space() {
                bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            }
        }
        self.append(bytes, text);
    }

    pub fn flush(&mut self, text: &mut String) {
        if !self.pending.is_empty() {
            self.pending.clear();
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }

    fn append(&mut self, bytes: &[u8], text: &mut String) {
        if self.pending.is_empty() {
            let tail = append_whole_characters(bytes, text);
            self.pending.extend(tail);
        } else {
            self.pending.extend(bytes);
            let rest = append_whole_characters(&self.pending, text).len();
            self.pending.drain(..self.pending.len() - rest);
        }
    }
}

/// Appends `bytes` as text, U+FFFD for what no later byte can make valid, and returns the incomplete
/// character at their end. Gives what `String::from_utf8_lossy` gives of the whole, however it is cut.
fn append_whole_characters<'a>(mut bytes: &'a [u8], text: &mut String) -> &'a [u8] {
    loop {
        let error = match std::str::from_utf8(bytes) {
            Ok(valid) => {
                text.push_str(valid);
                return &[];
            }
            Err(error) => error,
        };
        let (valid, rest) = bytes.split_at(error.valid_up_to());
        text.push_str(std::str::from_utf8(valid).expect("valid up to here"));
        let Some(invalid) = error.error_len() else { return rest };
        text.push(char::REPLACEMENT_CHARACTER);
        bytes = &rest[invalid..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_cut_anywhere_give_the_text_of_the_whole() {
        let rows: [&[u8]; 8] = [
            b"",
            b"plain",
            "é \u{1f469}\u{200d}\u{1f680} ไทย".as_bytes(),
            b"\xff\xfe",
            b"a\xf0\x9f\x98",
            b"\xf0\x9f\x98a\xf0\x9f\x98\x80",
            b"\xed\xa0\x80\xc0\x80",
            b"\xe4\xbd\xa0\xe4\xbd",
        ];
        for row in rows {
            for cut in 0..=row.len() {
                let mut text = String::new();
                let mut detokenizer = Detokenizer::at_text_start(false);
                detokenizer.append(&row[..cut], &mut text);
                detokenizer.append(&row[cut..], &mut text);
                detokenizer.flush(&mut text);
                assert_eq!(text, String::from_utf8_lossy(row), "{row:?} cut at {cut}");
            }
        }
    }
}

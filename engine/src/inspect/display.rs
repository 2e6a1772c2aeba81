//! An [`Inspection`] as people read it: facts first, then tensors with the layers of one kind in one
//! line.

use std::fmt;

use super::{Inspection, Sizes, TensorSummary};

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let description = &self.description;
        writeln!(f, "{} ({}, {})", self.path.display(), self.file_format, size(self.file_bytes))?;
        let mut line = |label: &str, value: Option<String>| match value {
            Some(value) => writeln!(f, "  {label:<14}{}", printable(&value)),
            None => Ok(()),
        };
        line("name", description.name.clone())?;
        line("architecture", Some(description.architecture.clone().unwrap_or_else(|| "not stated".into())))?;
        line("parameters", Some(count(self.parameters)))?;
        line("quantisation", description.quantization.clone())?;
        line("context", description.sizes.context_tokens.map(|tokens| format!("{tokens} tokens")))?;
        line("layers", layers(&description.sizes))?;
        line("heads", heads(&description.sizes))?;
        line(
            "vocabulary",
            description.vocabulary.as_ref().map(|vocabulary| match vocabulary.tokens {
                Some(tokens) => format!("{tokens} tokens, {}", vocabulary.kind),
                None => vocabulary.kind.clone(),
            }),
        )?;
        line(
            "chat template",
            Some(match &description.chat_template {
                Some(template) => format!("yes, {} characters", template.chars().count()),
                None => "none".into(),
            }),
        )?;
        line("licence", Some(description.license.clone().unwrap_or_else(|| "not stated".into())))?;
        line(
            "runs here",
            Some(self.refusal.as_ref().map_or("yes".into(), |reason| format!("no: {reason}"))),
        )?;
        self.write_types(f)?;
        self.write_tensors(f)
    }
}

impl Inspection {
    fn write_types(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n  {:<10}{:>8}{:>12}{:>12}", "type", "tensors", "values", "bytes")?;
        for share in &self.types {
            let note = if share.supported { "" } else { "  (no kernel)" };
            let (values, bytes) = (count(share.values), size(share.bytes));
            writeln!(f, "  {:<10}{:>8}{values:>12}{bytes:>12}{note}", share.kind, share.tensors)?;
        }
        Ok(())
    }

    fn write_tensors(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n  tensor (* stands for a layer's number)")?;
        for (pattern, tensor, repeats) in grouped(&self.tensors) {
            let shape = tensor.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
            let repeats = if repeats > 1 { format!("  {repeats} of them") } else { String::new() };
            writeln!(f, "  {:<48} {:<8} {shape}{repeats}", printable(&pattern), tensor.kind)?;
        }
        Ok(())
    }
}

/// Tensors that differ only in a number between dots, in the order of their first ones.
fn grouped(tensors: &[TensorSummary]) -> Vec<(String, &TensorSummary, usize)> {
    let mut groups: Vec<(String, &TensorSummary, usize)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for tensor in tensors {
        let pattern = pattern(&tensor.name);
        let place = *places.entry((pattern.clone(), tensor.kind, &tensor.shape)).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, _, repeats)) => *repeats += 1,
            None => groups.push((pattern, tensor, 1)),
        }
    }
    groups
}

/// `blk.12.attn_q.weight` becomes `blk.*.attn_q.weight`.
fn pattern(name: &str) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    name.split('.').map(|part| if is_number(part) { "*" } else { part }).collect::<Vec<_>>().join(".")
}

fn layers(sizes: &Sizes) -> Option<String> {
    let mut text = sizes.layers?.to_string();
    for (label, size) in [("hidden", sizes.hidden_size), ("feed-forward", sizes.feed_forward_size)] {
        if let Some(size) = size {
            text += &format!(", {label} {size}");
        }
    }
    Some(text)
}

fn heads(sizes: &Sizes) -> Option<String> {
    let heads = sizes.heads?;
    Some(match sizes.kv_heads {
        Some(kv_heads) if kv_heads != heads => format!("{heads}, {kv_heads} for keys and values"),
        _ => heads.to_string(),
    })
}

/// A number with a decimal prefix: `134.5 M`.
fn count(number: u64) -> String {
    scaled(number, &["", " K", " M", " G", " T"])
}

/// A length with a decimal prefix: `98.9 MB`.
fn size(bytes: u64) -> String {
    scaled(bytes, &[" B", " kB", " MB", " GB", " TB"])
}

fn scaled(number: u64, units: &[&str]) -> String {
    let (mut value, mut unit) = (number as f64, 0);
    // 999.95 would round to "1000.0".
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = usize::from(unit > 0);
    format!("{value:.decimals$}{}", units[unit])
}

/// Text from a file, fit for a terminal: control characters could move the cursor or change colours.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_numbers() {
        let check = |number: u64, expected: &str| assert_eq!(count(number), expected);
        check(0, "0");
        check(999, "999");
        check(1000, "1.0 K");
        check(999_949, "999.9 K");
        check(999_950, "1.0 M");
        check(134_515_008, "134.5 M");
        check(u64::MAX, "18446744.1 T");
    }

    #[test]
    fn names_without_layer_numbers() {
        let check = |name: &str, expected: &str| assert_eq!(pattern(name), expected);
        check("blk.12.attn_q.weight", "blk.*.attn_q.weight");
        check("encoder.layer.3.attention.self.query.weight", "encoder.layer.*.attention.self.query.weight");
        check("token_embd.weight", "token_embd.weight");
        check("a..b1.2c", "a..b1.2c");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mé\n"), "a\u{fffd}[31mé\u{fffd}");
    }
}

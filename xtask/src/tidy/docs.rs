//! Documents name files that exist: a map that is out of date is worse than none.

use super::{Finding, Tree};

/// Endings of words in backticks that are taken for files.
const FILES: &[&str] = &[".rs", ".toml", ".py", ".json", ".txt", ".md"];

pub fn check(tree: &Tree) -> Vec<Finding> {
    let documents = tree.files.iter().filter(|(path, _)| path.ends_with(".md"));
    documents.flat_map(|(path, text)| check_document(path, text, tree)).collect()
}

fn check_document(path: &str, text: &str, tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for name in quoted(line).filter(|name| is_file(name)) {
            if !tree.files.iter().any(|(known, _)| known == name || known.ends_with(&format!("/{name}"))) {
                findings.push(Finding::new(path, index + 1, format!("there is no file {name}")));
            }
        }
    }
    findings
}

/// What stands between backticks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// A path with a folder, of the repository: not of a user's disk, not a pattern, not a command.
fn is_file(name: &str) -> bool {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let placeholder = name.contains("NAME") || name.contains("CRATE");
    plain
        && !placeholder
        && name.contains('/')
        && !name.starts_with(['/', '.', '~'])
        && FILES.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, sound: bool) {
        let tree = Tree { files: vec![("engine/src/models/llama.rs".into(), String::new())] };
        assert_eq!(check_document("docs/a.md", line, &tree).is_empty(), sound, "{line}");
    }

    #[test]
    fn named_files_exist() {
        check("see `engine/src/models/llama.rs`", true);
        check("see `models/llama.rs` and `cargo test -p engine/x.rs`", true);
        check("see `engine/src/models/lama.rs`", false);
        check("see `engine/src/models/NAME.rs` or `./my/model.json`", true);
        check("see engine/src/nowhere.rs", true);
        check("see `models/llama.rs` and `other/llama.rs`", false);
    }
}

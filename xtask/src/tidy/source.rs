//! Rules on lines of text: where `unsafe` may stand, and words that stay out.

use super::{Finding, Tree};

/// `unsafe` outside kernels, and `unsafe` inside it that no SAFETY comment covers.
pub fn check_unsafe(tree: &Tree) -> Vec<Finding> {
    tree.rust().flat_map(|(path, text)| check_file(path, text)).collect()
}

fn check_file(path: &str, text: &str) -> Vec<Finding> {
    // The rules' own words would be findings; `#![forbid(unsafe_code)]` guards that crate instead.
    if path.starts_with("xtask/src/") {
        return Vec::new();
    }
    let inside = path.starts_with("kernels/");
    let lines: Vec<&str> = text.lines().collect();
    let mut findings = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = code_of(line);
        if has_word(code, "unsafe") {
            match inside {
                false => findings.push(Finding::new(path, index + 1, "only kernels may say `unsafe`")),
                true if needs_comment(code) && !has_safety_above(&lines, index) => {
                    findings.push(Finding::new(
                        path,
                        index + 1,
                        "no `// SAFETY:` line above says why it holds",
                    ));
                }
                true => {}
            }
        }
    }
    findings
}

/// The line without its comment and without its plain string literals.
fn code_of(line: &str) -> &str {
    let code = line.split("//").next().unwrap_or(line);
    code.split('"').next().unwrap_or(code)
}

/// Blocks and impls need a proof; declarations of unsafe functions carry a `# Safety` section instead.
fn needs_comment(code: &str) -> bool {
    code.contains("unsafe {") || code.contains("unsafe impl")
}

/// A comment with SAFETY within the same statement or the few lines above it.
fn has_safety_above(lines: &[&str], index: usize) -> bool {
    const REACH: usize = 12;
    lines[index.saturating_sub(REACH)..=index].iter().any(|line| line.contains("SAFETY:"))
}

fn has_word(code: &str, word: &str) -> bool {
    let boundary = |character: Option<char>| !character.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).any(|(start, _)| {
        boundary(code[..start].chars().next_back()) && boundary(code[start + word.len()..].chars().next())
    })
}

/// Package registries come by package name through the user's own client, never by host. Spelt in
/// halves, so that this file does not hold them either.
const REGISTRY_HOSTS: &[(&str, &str)] = &[
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("crates", ".io"),
    ("npmjs", ".org"),
    ("npmjs", ".com"),
    ("repo.maven", ".apache"),
    ("deb.debian", ".org"),
    ("proxy.golang", ".org"),
];

/// Macros that stand for code still to be written.
const UNFINISHED: &[&str] = &["todo!(", "unimplemented!("];

pub fn check_words(tree: &Tree) -> Vec<Finding> {
    tree.files.iter().flat_map(|(path, text)| check_text(path, text)).collect()
}

fn check_text(path: &str, text: &str) -> Vec<Finding> {
    // Cargo itself writes its registry's name into the lock file.
    if path.ends_with("Cargo.lock") || path == "xtask/src/tidy/source.rs" {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for (name, ending) in REGISTRY_HOSTS {
            if line.contains(&format!("{name}{ending}")) {
                let text = format!("names the host of a package registry ({name}): name the package alone");
                findings.push(Finding::new(path, index + 1, text));
            }
        }
        if path.ends_with(".rs") && UNFINISHED.iter().any(|word| line.contains(word)) {
            findings.push(Finding::new(path, index + 1, "unfinished work"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, expected: &[usize]) {
        let found = check_file(path, text).into_iter().chain(check_text(path, text));
        let lines: Vec<usize> = found.map(|finding| finding.line).collect();
        assert_eq!(lines, expected, "{path}: {text}");
    }

    #[test]
    fn unsafe_stays_in_kernels() {
        check("engine/src/a.rs", "let x = 1;", &[]);
        check("engine/src/a.rs", "\nunsafe { f() }", &[2]);
        check("engine/src/a.rs", "// unsafe { f() }", &[]);
        check("engine/src/a.rs", "let text = \"unsafe { f() }\";", &[]);
        check("engine/src/a.rs", "#![deny(unsafe_op_in_unsafe_fn)]", &[]);
        check("kernels/src/a.rs", "unsafe { f() }", &[1]);
        check("kernels/src/a.rs", "// SAFETY: checked above.\nunsafe { f() }", &[]);
        check("kernels/src/a.rs", "unsafe fn f() {", &[]);
        check("kernels/src/a.rs", "unsafe impl Send for A {}", &[1]);
    }

    #[test]
    fn words() {
        check("README.md", "pip install janus", &[]);
        check("README.md", &format!("https://{}{}/simple", "pypi", ".org"), &[1]);
        check("Cargo.lock", &format!("registry+{}{}", "crates", ".io"), &[]);
        check("engine/src/a.rs", "    todo!()", &[1]);
        check("docs/a.md", "todo!()", &[]);
    }
}

//! A ratchet on file length: files stay readable in one sitting, those that are not may only shrink.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;

use super::{Finding, Tree};

/// From here on a file needs a row of its own in [`ALLOWED`].
const LINES_MAX: usize = 600;
/// Rows `LINES PATH`, sorted by path.
const ALLOWED: &str = "xtask/lengths.txt";

pub fn check(tree: &Tree) -> Vec<Finding> {
    let allowed = allowed(tree);
    tree.rust().filter_map(|(path, text)| judge(path, text.lines().count(), &allowed)).collect()
}

fn judge(path: &str, lines: usize, allowed: &[(usize, &str)]) -> Option<Finding> {
    let listed = allowed.iter().find(|(_, listed)| *listed == path).map(|(lines, _)| *lines);
    let limit = listed.unwrap_or(LINES_MAX).max(LINES_MAX);
    let advice = "move a part that has a name of its own to its own file";
    (lines > limit).then(|| Finding::new(path, 0, format!("{lines} lines, at most {limit}: {advice}")))
}

fn allowed(tree: &Tree) -> Vec<(usize, &str)> {
    let rows = tree.file(ALLOWED).unwrap_or_default().lines();
    rows.filter_map(|row| row.split_once(' ')).filter_map(|(n, path)| Some((n.parse().ok()?, path))).collect()
}

/// Lowers every row to today's length and drops rows no longer needed.
pub fn shrink(tree: &Tree, root: &Path) -> anyhow::Result<()> {
    let mut rows = String::new();
    for (limit, path) in allowed(tree) {
        let lines = tree.file(path).map_or(0, |text| text.lines().count());
        if lines > LINES_MAX {
            writeln!(rows, "{} {path}", lines.min(limit)).context("writing to a string")?;
        }
    }
    std::fs::write(root.join(ALLOWED), rows).with_context(|| format!("cannot write {ALLOWED}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: usize, allowed: &[(usize, &str)], expected: bool) {
        assert_eq!(judge("a.rs", lines, allowed).is_none(), expected, "{lines} lines, {allowed:?}");
    }

    #[test]
    fn ratchet() {
        check(600, &[], true);
        check(601, &[], false);
        check(601, &[(700, "b.rs")], false);
        check(700, &[(700, "a.rs")], true);
        check(701, &[(700, "a.rs")], false);
        check(600, &[(20, "a.rs")], true);
    }
}

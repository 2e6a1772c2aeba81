//! File lengths: what does not fit one sitting is taken apart.

use super::{Finding, Tree};

const LINES_MAX: usize = 600;

pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.rust().filter_map(|(path, text)| judge(path, text.lines().count())).collect()
}

fn judge(path: &str, lines: usize) -> Option<Finding> {
    let advice = "move a part that has a name of its own to its own file";
    (lines > LINES_MAX)
        .then(|| Finding::new(path, 0, format!("{lines} lines, at most {LINES_MAX}: {advice}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_end_in_time() {
        for (lines, sound) in [(0, true), (600, true), (601, false)] {
            assert_eq!(judge("a.rs", lines).is_none(), sound, "{lines} lines");
        }
    }
}

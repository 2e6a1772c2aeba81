//! What the suites' own closing lines say, added up.

/// One suite's outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
    /// `NOT RUN: why`, in order of appearance, each once.
    pub not_run: Vec<String>,
    /// `NAME: ran` or `NAME: NOT RUN: why` of instruction sets, each once. No machine has them all, so
    /// these are shown and never a failure.
    pub isas: Vec<String>,
}

impl Tally {
    /// Reads one line of a runner's output; lines of no interest change nothing.
    pub fn read(&mut self, line: &str) {
        let line = line.trim();
        if let Some(isa) = line.strip_prefix("isa ").filter(|isa| isa.contains(": ")) {
            if !self.isas.iter().any(|seen| seen == isa) {
                self.isas.push(isa.to_owned());
            }
        } else if let Some(why) = line.find("NOT RUN: ").map(|start| &line[start + "NOT RUN: ".len()..]) {
            let why = why.trim_end_matches(['\'', '"', ')']).to_owned();
            if !self.not_run.contains(&why) {
                self.not_run.push(why);
            }
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            self.add_counts(counts.split_once(". ").map_or("", |(_, counts)| counts), &[';']);
        } else if line.starts_with("==") && line.ends_with("==") && line.contains(" in ") {
            self.add_counts(line.trim_matches(['=', ' ']), &[',']);
        } else if let Some(count) = line.strip_prefix("# ").or_else(|| line.strip_prefix("ℹ ")) {
            self.add_node(count);
        }
    }

    /// `12 passed; 0 failed; 1 ignored` (cargo) and `12 passed, 1 skipped in 3.4s` (pytest).
    fn add_counts(&mut self, counts: &str, separators: &[char]) {
        for count in counts.split(separators) {
            let mut words = count.split_whitespace();
            let (Some(Ok(number)), Some(word)) = (words.next().map(str::parse::<usize>), words.next()) else {
                continue;
            };
            match word {
                "passed" => self.passed += number,
                "failed" | "error" | "errors" => self.failed += number,
                "ignored" | "skipped" => self.skipped += number,
                _ => {}
            }
        }
    }

    /// `pass 12`, `fail 0`, `skipped 1`: node's test runner.
    fn add_node(&mut self, count: &str) {
        let Some((word, number)) = count.split_once(' ') else { return };
        let Ok(number) = number.parse::<usize>() else { return };
        match word {
            "pass" => self.passed += number,
            "fail" => self.failed += number,
            "skipped" => self.skipped += number,
            _ => {}
        }
    }
}

/// Prints every suite, everything not run, and the closing line `N passed, N failed`.
pub fn print(suites: &[(&str, Tally)]) {
    println!("\n{:<28} {:>8} {:>8} {:>8}", "suite", "passed", "failed", "skipped");
    for (name, tally) in suites {
        println!("{name:<28} {:>8} {:>8} {:>8}", tally.passed, tally.failed, tally.skipped);
    }
    for (name, tally) in suites {
        tally.isas.iter().for_each(|isa| println!("instruction set in {name}: {isa}"));
    }
    for (name, tally) in suites {
        tally.not_run.iter().for_each(|why| println!("NOT RUN in {name}: {why}"));
    }
    let passed: usize = suites.iter().map(|(_, tally)| tally.passed).sum();
    let failed: usize = suites.iter().map(|(_, tally)| tally.failed).sum();
    println!("\n{passed} passed, {failed} failed");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], passed: usize, failed: usize, skipped: usize, not_run: &[&str]) {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.read(line));
        let not_run = not_run.iter().map(|&why| why.to_owned()).collect();
        assert_eq!(tally, Tally { passed, failed, skipped, not_run, isas: Vec::new() }, "{lines:?}");
    }

    #[test]
    fn closing_lines() {
        check(&["running 3 tests", "ok"], 0, 0, 0, &[]);
        let cargo =
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.1s";
        check(&[cargo, cargo], 24, 0, 2, &[]);
        check(
            &["test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out"],
            1,
            2,
            0,
            &[],
        );
        check(&["==== 5 passed, 1 skipped in 3.40s ===="], 5, 0, 1, &[]);
        check(&["=== 1 failed, 4 passed, 2 errors in 3.40s ==="], 4, 3, 0, &[]);
        check(&["ℹ tests 3", "ℹ pass 2", "ℹ fail 1"], 2, 1, 0, &[]);
        check(&["# pass 2", "# fail 0", "# skipped 4", "# Some heading"], 2, 0, 4, &[]);
        check(
            &["NOT RUN: no model", "  x NOT RUN: no model", "NOT RUN: no gpu"],
            0,
            0,
            0,
            &["no model", "no gpu"],
        );
    }

    #[test]
    fn instruction_sets_are_listed_apart_from_tests_not_run() {
        let mut tally = Tally::default();
        let lines = ["isa scalar: ran", "isa neon: NOT RUN: this machine lacks it", "isa scalar: ran"];
        lines.iter().for_each(|line| tally.read(line));
        assert_eq!(tally.isas, ["scalar: ran", "neon: NOT RUN: this machine lacks it"]);
        assert!(tally.not_run.is_empty());
    }
}

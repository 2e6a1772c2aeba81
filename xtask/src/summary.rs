//! What the suites' own closing lines say, added up.

/// One suite's outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
    /// `NOT RUN: why`, in order of appearance, each once.
    pub not_run: Vec<String>,
    /// Instruction sets, each once, with `ran` or `NOT RUN: why`. No machine has them all, so these are
    /// shown and never a failure.
    pub isas: Vec<(String, String)>,
}

/// Tests that cargo ignores by design: the child process of a test of the page store.
const IGNORED_BY_DESIGN: usize = 1;

impl Tally {
    /// Why the suite does not count as run, where nothing may be left out: what its tests say themselves, and
    /// what none of them says.
    pub fn left_out(&self) -> Vec<String> {
        let mut why = self.not_run.clone();
        if self.skipped > IGNORED_BY_DESIGN + self.not_run.len() {
            why.push(format!("{} tests were skipped; see their suite's output", self.skipped));
        }
        if self.passed + self.failed == 0 && self.isas.is_empty() {
            why.push("there was no test in it".to_owned());
        }
        why
    }

    /// Of a suite that this machine lacks the instructions, or an emulator, for.
    pub fn lacking(isa: &str, why: &str) -> Tally {
        Tally { isas: vec![(isa.to_owned(), format!("NOT RUN: {why}"))], ..Tally::default() }
    }

    /// Reads one line of a runner's output; lines of no interest change nothing.
    pub fn read(&mut self, line: &str) {
        let line = line.trim();
        if let Some((isa, outcome)) = line.strip_prefix("isa ").and_then(|line| line.split_once(": ")) {
            let entry = (isa.to_owned(), outcome.to_owned());
            if !self.isas.contains(&entry) {
                self.isas.push(entry);
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
pub fn print(suites: &[(String, Tally)]) {
    println!("\n{:<28} {:>8} {:>8} {:>8}", "suite", "passed", "failed", "skipped");
    for (name, tally) in suites {
        println!("{name:<28} {:>8} {:>8} {:>8}", tally.passed, tally.failed, tally.skipped);
    }
    for (isa, outcome) in isas(suites) {
        println!("isa {isa}: {outcome}");
    }
    for (name, tally) in suites {
        tally.left_out().iter().for_each(|why| println!("NOT RUN in {name}: {why}"));
    }
    let passed: usize = suites.iter().map(|(_, tally)| tally.passed).sum();
    let failed: usize = suites.iter().map(|(_, tally)| tally.failed).sum();
    println!("\n{passed} passed, {failed} failed");
}

/// Every instruction set the suites speak of: the suites it ran in, or why it ran in none.
fn isas(suites: &[(String, Tally)]) -> Vec<(&str, String)> {
    let mut names: Vec<&str> = Vec::new();
    for (isa, _) in suites.iter().flat_map(|(_, tally)| &tally.isas) {
        if !names.contains(&isa.as_str()) {
            names.push(isa);
        }
    }
    let entries = || suites.iter().flat_map(|(suite, tally)| tally.isas.iter().map(move |isa| (suite, isa)));
    let outcome = |name: &str| {
        let of_name = || entries().filter(|(_, (isa, _))| isa == name);
        let ran: Vec<&str> =
            of_name().filter(|(_, (_, outcome))| outcome == "ran").map(|(suite, _)| suite.as_str()).collect();
        match of_name().next() {
            Some((_, (_, why))) if ran.is_empty() => why.clone(),
            _ => format!("ran in {}", ran.join(", ")),
        }
    };
    names.into_iter().map(|name| (name, outcome(name))).collect()
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
    fn what_is_left_out_is_told() {
        let count = |lines: &[&str]| {
            let mut tally = Tally::default();
            lines.iter().for_each(|line| tally.read(line));
            tally.left_out().len()
        };
        let cargo = "test result: ok. 9 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out";
        for (lines, expected) in [
            (&[cargo][..], 0),
            (&[cargo, cargo], 1),
            (&["NOT RUN: no model", cargo], 1),
            (&["=== 5 passed in 3.40s ==="], 0),
            (&["NOT RUN: no server", "=== 5 passed, 1 skipped in 3.40s ==="], 1),
            (&["=== 5 passed, 4 skipped in 3.40s ==="], 1),
            (&["ℹ pass 0", "ℹ fail 0"], 1),
            (&["ℹ pass 0", "ℹ fail 1"], 0),
            (&[], 1),
        ] {
            assert_eq!(count(lines), expected, "{lines:?}");
        }
        assert_eq!(Tally::lacking("aarch64", "no emulator").left_out().len(), 0);
    }

    #[test]
    fn instruction_sets_are_listed_apart_from_tests_not_run() {
        let suite = |name: &str, lines: &[&str]| {
            let mut tally = Tally::default();
            lines.iter().for_each(|line| tally.read(line));
            assert!(tally.not_run.is_empty());
            (name.to_owned(), tally)
        };
        let lacks = |isa: &str| format!("isa {isa}: NOT RUN: this machine lacks it");
        let suites = [
            suite("here", &["isa scalar: ran", &lacks("neon"), &lacks("neon-i8mm"), "isa scalar: ran"]),
            suite("emulated", &["isa scalar: ran", "isa neon: ran", &lacks("neon-i8mm")]),
            ("aarch64".to_owned(), Tally::lacking("aarch64", "no emulator")),
        ];
        let expected = [
            ("scalar", "ran in here, emulated"),
            ("neon", "ran in emulated"),
            ("neon-i8mm", "NOT RUN: this machine lacks it"),
            ("aarch64", "NOT RUN: no emulator"),
        ];
        assert_eq!(isas(&suites), expected.map(|(isa, outcome)| (isa, outcome.to_owned())));
    }
}

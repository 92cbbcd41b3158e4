//! A test runner's output: in flow its lines as they come; out flows what to print at once and what to hold back, so that the runner's
//! summary comes last, after the list of what was left out. It runs nothing.

/// The runners whose output is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runner {
    /// cargo-nextest: from the line `Summary [` on, all is summary.
    Nextest,
    /// `cargo test`: one `test result:` for each program.
    CargoTest,
}

/// What has been held back so far.
#[derive(Debug)]
pub(crate) struct Summary {
    runner: Runner,
    held: Vec<String>,
    totals: Totals,
}

/// The sum of all `test result:` lines.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Totals {
    programs: u64,
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Summary {
    pub(crate) fn of(runner: Runner) -> Self {
        Self { runner, held: Vec::new(), totals: Totals::default() }
    }

    /// Takes a line; gives it back if it is to be printed at once.
    pub(crate) fn line(&mut self, line: String) -> Option<String> {
        match self.runner {
            Runner::Nextest => {
                if !self.held.is_empty() || without_colour(&line).trim_start().starts_with("Summary [") {
                    self.held.push(line);
                    None
                } else {
                    Some(line)
                }
            }
            Runner::CargoTest => {
                if let Some(rest) = without_colour(&line).strip_prefix("test result: ") {
                    self.totals.add(rest);
                }
                Some(line)
            }
        }
    }

    /// What is printed last.
    pub(crate) fn last_lines(mut self) -> Vec<String> {
        let Totals { programs, passed, failed, ignored } = self.totals;
        if self.runner == Runner::CargoTest && programs > 0 {
            let word = if failed == 0 { "ok" } else { "FAILED" };
            self.held.push(format!("test result: {word}. {passed} passed; {failed} failed; {ignored} ignored; in {programs} programs"));
        }
        self.held
    }
}

impl Totals {
    /// `ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`
    fn add(&mut self, line: &str) {
        self.programs += 1;
        for part in line.split(';') {
            let mut words = part.split_whitespace().rev();
            let (word, number) = (words.next(), words.next().and_then(|number| number.parse::<u64>().ok()));
            match (word, number) {
                (Some("passed"), Some(number)) => self.passed += number,
                (Some("failed"), Some(number)) => self.failed += number,
                (Some("ignored"), Some(number)) => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// The line without terminal escapes.
fn without_colour(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(character) = rest.next() {
        if character == '\u{1b}' {
            // ESC [ numbers letter
            rest.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(runner: Runner, lines: &[&str]) -> (Vec<String>, Vec<String>) {
        let mut summary = Summary::of(runner);
        let at_once = lines.iter().filter_map(|line| summary.line((*line).to_owned())).collect();
        (at_once, summary.last_lines())
    }

    #[test]
    fn nextest_is_held_back_from_its_summary_on() {
        let summary = "\u{1b}[32;1m     Summary\u{1b}[0m [   0.1s] 2 tests run: 1 passed, 1 failed";
        let (at_once, last) =
            through(Runner::Nextest, &["        PASS a", "------------", summary, "        FAIL b", "error: test run failed"]);
        assert_eq!(at_once, ["        PASS a", "------------"]);
        assert_eq!(last, [summary, "        FAIL b", "error: test run failed"]);
    }

    #[test]
    fn results_of_cargo_test_are_added_up() {
        let (at_once, last) = through(
            Runner::CargoTest,
            &[
                "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
                "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured",
            ],
        );
        assert_eq!(at_once.len(), 2);
        assert_eq!(last, ["test result: FAILED. 4 passed; 2 failed; 1 ignored; in 2 programs"]);
        assert_eq!(through(Runner::CargoTest, &["error: could not compile"]).1, Vec::<String>::new());
    }
}

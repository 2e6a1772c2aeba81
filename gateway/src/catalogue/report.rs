//! Progress of long file work: a bar for a terminal, a line now and then for a log.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::pull::NOTED_BYTES;
use super::size;

/// Told what happens; must not fail.
pub trait Report: Send + Sync {
    /// One line that stays.
    fn note(&self, line: &str);
    /// Something of `total` bytes begins at byte `at`.
    fn start(&self, label: &str, total: u64, at: u64);
    /// It has come to byte `at`.
    fn at(&self, at: u64);
    /// It is over, done or not.
    fn end(&self);
}

/// The reporter for this process's standard error.
pub fn for_stderr() -> Box<dyn Report> {
    match std::io::stderr().is_terminal() {
        true => Box::new(Terminal::new()),
        false => Box::new(Lines::default()),
    }
}

struct Terminal {
    bar: ProgressBar,
}

impl Terminal {
    fn new() -> Terminal {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        let layout = "  {msg:28!} [{wide_bar}] {decimal_bytes:>9} / {decimal_total_bytes:9} {decimal_bytes_per_sec:>11}";
        let style = ProgressStyle::with_template(layout).expect("the layout is a constant that is tested");
        bar.set_style(style.progress_chars("=> "));
        Terminal { bar }
    }
}

impl Report for Terminal {
    fn note(&self, line: &str) {
        self.bar.suspend(|| eprintln!("  {line}"));
    }

    fn start(&self, label: &str, total: u64, at: u64) {
        self.bar.reset();
        self.bar.set_length(total);
        self.bar.set_message(label.to_owned());
        // Bytes that were here before are no part of the speed.
        self.bar.set_position(at);
        self.bar.reset_eta();
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
    }

    fn at(&self, at: u64) {
        self.bar.set_position(at);
    }

    fn end(&self) {
        self.bar.finish_and_clear();
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
    }
}

/// A line every so often, for logs.
#[derive(Default)]
struct Lines {
    current: Mutex<Option<Line>>,
}

struct Line {
    label: String,
    total: u64,
    last: Instant,
}

const LINE_EVERY: Duration = Duration::from_secs(5);

impl Report for Lines {
    fn note(&self, line: &str) {
        eprintln!("{line}");
    }

    fn start(&self, label: &str, total: u64, _at: u64) {
        if total >= NOTED_BYTES {
            eprintln!("{label} ({})", size(total));
        }
        let line = Line { label: label.to_owned(), total, last: Instant::now() };
        *self.current.lock().expect("no reporter panics") = Some(line);
    }

    fn at(&self, at: u64) {
        let mut current = self.current.lock().expect("no reporter panics");
        if let Some(line) = current.as_mut()
            && line.last.elapsed() >= LINE_EVERY
        {
            eprintln!("{}: {} of {}", line.label, size(at), size(line.total));
            line.last = Instant::now();
        }
    }

    fn end(&self) {
        *self.current.lock().expect("no reporter panics") = None;
    }
}

/// Says nothing.
pub struct Silent;

impl Report for Silent {
    fn note(&self, _line: &str) {}
    fn start(&self, _label: &str, _total: u64, _at: u64) {}
    fn at(&self, _at: u64) {}
    fn end(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_valid_and_a_bar_can_be_used_twice() {
        let terminal = Terminal::new();
        for _ in 0..2 {
            terminal.start("file", 10, 5);
            terminal.at(7);
            terminal.note("a line");
            terminal.end();
        }
    }
}

//! The output of the demo: one redrawn line on a terminal, a line a second elsewhere, and the result.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use breaker::State;

use super::report::Report;

/// How often the line is redrawn on a terminal.
const REDRAW: Duration = Duration::from_millis(100);

/// How often a line is printed elsewhere.
const PRINT: Duration = Duration::from_secs(1);

/// Columns from which the long form of the line is used.
const WIDE: usize = 116;

/// The screen or file of the demo's output. Errors in writing are ignored: the demo goes on without a reader.
#[derive(Debug)]
pub(super) struct View {
    /// Standard error instead of standard output.
    on_stderr: bool,
    terminal: bool,
    /// A line without its end is on the screen.
    open: bool,
    next: Duration,
}

/// The numbers of one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) elapsed: Duration,
    pub(super) collector_up: bool,
    pub(super) breaker: State,
    pub(super) made: u64,
    pub(super) buffer: u64,
    pub(super) files: u64,
    pub(super) in_files: u64,
    pub(super) delivered: u64,
}

impl View {
    pub(super) fn new(on_stderr: bool) -> Self {
        let terminal = if on_stderr { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
        Self { on_stderr, terminal, open: false, next: Duration::ZERO }
    }

    /// A line that stays.
    pub(super) fn note(&mut self, text: &str) {
        let start = if self.open { "\r\x1b[K" } else { "" };
        self.open = false;
        self.write(&format!("{start}{text}\n"));
    }

    /// Shows the moment if it is time to.
    pub(super) fn show(&mut self, moment: &Moment) {
        if moment.elapsed >= self.next {
            self.show_now(moment);
        }
    }

    /// Shows the moment.
    pub(super) fn show_now(&mut self, moment: &Moment) {
        if self.terminal {
            self.next = moment.elapsed + REDRAW;
            let width = self.width();
            let line = if width >= WIDE { moment.wide() } else { moment.narrow() };
            let line: String = line.chars().take(width.saturating_sub(1)).collect();
            self.write(&format!("\r{line}\x1b[K"));
            self.open = true;
        } else {
            self.next = Duration::from_secs(moment.elapsed.as_secs()) + PRINT;
            self.note(&moment.wide());
        }
    }

    /// Ends the redrawn line: further output stands below it.
    pub(super) fn settle(&mut self) {
        if std::mem::take(&mut self.open) {
            self.write("\n");
        }
    }

    /// Prints the result and returns the exit code of the program.
    pub(super) fn finish(&mut self, report: &Report, json: bool) -> ExitCode {
        self.settle();
        self.note("");
        for line in lines(report) {
            self.note(&line);
        }
        if json {
            let object = serde_json::to_string(report).expect("numbers and texts");
            let _ = writeln!(io::stdout(), "{object}");
        }
        if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn write(&self, text: &str) {
        let _ = if self.on_stderr {
            io::stderr().write_all(text.as_bytes())
        } else {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        };
    }

    fn width(&self) -> usize {
        let size = if self.on_stderr {
            rustix::termios::tcgetwinsize(io::stderr())
        } else {
            rustix::termios::tcgetwinsize(io::stdout())
        };
        // A terminal without a size, as on a serial line or under a recorder, reports 0.
        columns(size.map_or(0, |size| size.ws_col))
    }
}

fn columns(reported: u16) -> usize {
    match reported {
        0 => 80,
        reported => usize::from(reported).max(20),
    }
}

impl Moment {
    fn wide(&self) -> String {
        let Self { elapsed, breaker, .. } = self;
        let [made, buffer, in_files, delivered] = [self.made, self.buffer, self.in_files, self.delivered].map(grouped);
        let (seconds, collector, files) = (elapsed.as_secs_f64(), self.collector(), self.files);
        format!(
            "{seconds:5.1}s  collector {collector:4}  breaker {breaker:9}  made {made:>7}  delivered {delivered:>7}  \
             buffer {buffer:>6}  files {files} ({in_files} spans)",
            breaker = name(*breaker),
        )
    }

    /// For 80 columns.
    fn narrow(&self) -> String {
        let Self { elapsed, breaker, files, .. } = self;
        let [buffer, delivered] = [self.buffer, self.delivered].map(grouped);
        let (seconds, collector) = (elapsed.as_secs_f64(), self.collector());
        format!(
            "{seconds:4.1}s collector {collector:4} breaker {breaker:9} delivered {delivered:>6} \
             buffer {buffer:>6} files {files}",
            breaker = name(*breaker),
        )
    }

    fn collector(&self) -> &'static str {
        if self.collector_up { "up" } else { "down" }
    }
}

/// The breaker's state as people write it.
pub(super) fn name(state: State) -> &'static str {
    match state {
        State::HalfOpen => "half-open",
        state => state.as_str(),
    }
}

fn lines(report: &Report) -> Vec<String> {
    let Report { made, bsp_dropped, ledger, collector, breaker, verdict } = report;
    let mut lines = vec!["ledger, in spans".to_owned()];
    let mut row = |name: &str, spans: u64| lines.push(format!("  {name:<24} {:>9}", grouped(spans)));
    row("offered", ledger.offered);
    // These terms are usually 0 and then left out; the JSON has all of them.
    let rest = [
        ("buffered", ledger.buffered),
        ("in flight", ledger.in_flight),
        ("in fallback files", ledger.in_fallback),
        ("in the journal alone", ledger.in_journal),
        ("rejected", ledger.rejected),
        ("dead letters", ledger.dead_lettered),
        ("taken over", ledger.taken_over),
    ];
    row("delivered", ledger.delivered);
    rest.iter().filter(|(_, spans)| *spans > 0).for_each(|(name, spans)| row(name, *spans));
    for (kind, reasons) in [("dropped", &ledger.dropped), ("refused", &ledger.refused)] {
        reasons.iter().for_each(|(reason, spans)| row(&format!("{kind}: {reason}"), *spans));
    }
    lines.extend([
        format!("application   made {}; the SDK's queue dropped {}", grouped(*made), grouped(*bsp_dropped)),
        format!(
            "collector     received {}: {} different, {} duplicates; {} missing",
            grouped(collector.received),
            grouped(collector.unique),
            grouped(collector.duplicates),
            grouped(collector.missing),
        ),
        format!("breaker       {}", opened(breaker.trips)),
        format!("verdict       {verdict}"),
    ]);
    lines
}

fn opened(number: u64) -> String {
    match number {
        0 => "never opened".to_owned(),
        1 => "opened once".to_owned(),
        2 => "opened twice".to_owned(),
        number => format!("opened {} times", grouped(number)),
    }
}

/// With a comma between groups of three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut text = digits[..first].to_owned();
    for (index, digit) in digits[first..].chars().enumerate() {
        if index % 3 == 0 && !text.is_empty() {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (123_456, "123,456"), (1_234_567, "1,234,567")];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn a_terminal_without_a_size_has_80_columns() {
        assert_eq!([0, 1, 79, 80, 200].map(columns), [80, 20, 79, 80, 200]);
    }

    #[test]
    fn the_line_fits_its_columns() {
        let moment = Moment {
            elapsed: Duration::from_millis(99_900),
            collector_up: false,
            breaker: State::HalfOpen,
            made: 999_999,
            buffer: 10_000,
            files: 99,
            in_files: 999_999,
            delivered: 99_999,
        };
        assert!(moment.narrow().len() < 80, "{}", moment.narrow().len());
        assert!(moment.wide().len() < WIDE, "{}", moment.wide().len());
    }
}

//! The verdicts of all columns as one table, printed at the end past the test runner's capture.

use crate::probes::Finding;
use std::fmt::Write as _;
use std::io::Write as _;

/// The last number of the catalogue; what was thought of since is numbered from the next one on.
pub const CATALOGUE: u32 = 136;

/// What came of an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It did not get what it was after, and its control did.
    Denied,
    /// It had what it may have and no more, nobody else felt it, and its control got through.
    Contained,
    /// It gets through, which is written down.
    Documented,
    /// Like denied or contained, but this host can't show that it would get through elsewhere.
    NoControl,
    /// Tried in another place, or impossible as long as there is no such part.
    Elsewhere,
    /// Not tried here.
    Skipped,
    Failed,
}

impl Verdict {
    const ALL: [Verdict; 7] = [
        Verdict::Denied,
        Verdict::Contained,
        Verdict::Documented,
        Verdict::NoControl,
        Verdict::Elsewhere,
        Verdict::Skipped,
        Verdict::Failed,
    ];

    fn word(self) -> &'static str {
        match self {
            Verdict::Denied => "denied",
            Verdict::Contained => "contained",
            Verdict::Documented => "documented",
            Verdict::NoControl => "no control",
            Verdict::Elsewhere => "elsewhere",
            Verdict::Skipped => "SKIPPED",
            Verdict::Failed => "FAILED",
        }
    }
}

struct Cell {
    column: usize,
    verdict: Verdict,
    why: String,
}

struct Row {
    number: u32,
    name: String,
    cells: Vec<Cell>,
}

/// Rows are attacks, columns are adapters in a mode; what is added goes to the column begun last.
#[derive(Default)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Row>,
}

impl Table {
    /// Begins the next column.
    pub fn begin(&mut self, column: &str) {
        self.columns.push(column.to_owned());
    }

    fn add(&mut self, number: u32, name: &str, verdict: Verdict, why: String) {
        let column = self.columns.len().saturating_sub(1);
        let cell = Cell { column, verdict, why };
        match self.rows.iter_mut().find(|row| row.number == number && row.name == name) {
            Some(row) => row.cells.push(cell),
            None => self.rows.push(Row { number, name: name.to_owned(), cells: vec![cell] }),
        }
    }

    /// A row of something that was looked at from here: `escaped` says how it got through, if it did; `control` whether
    /// the same look sees it where that wall is off, if that could be tried.
    pub fn look(&mut self, number: u32, name: &str, escaped: Option<String>, control: Option<bool>) {
        match (escaped, control) {
            (Some(how), _) => self.add(number, name, Verdict::Failed, format!("ESCAPED: {how}")),
            (None, Some(false)) => self.add(number, name, Verdict::Failed, "the control sees nothing either".into()),
            (None, Some(true)) => self.add(number, name, Verdict::Denied, String::new()),
            (None, None) => self.add(number, name, Verdict::NoControl, "never tried on the host".into()),
        }
    }

    /// A row of something that takes all it can get: `harm` says what went wrong, `control` why its control did not get
    /// through, or that it has none and why.
    pub fn contain(&mut self, number: u32, name: &str, harm: Option<String>, control: Control) {
        match (harm, control) {
            (Some(harm), _) => self.add(number, name, Verdict::Failed, harm),
            (None, Control::Failed(why)) => self.add(number, name, Verdict::Failed, format!("its control: {why}")),
            (None, Control::Passed) => self.add(number, name, Verdict::Contained, String::new()),
            (None, Control::None(why)) => self.add(number, name, Verdict::NoControl, why.to_owned()),
        }
    }

    /// A row that is known to get through here, with what was seen.
    pub fn document(&mut self, number: u32, name: &str, why: &str) {
        self.add(number, name, Verdict::Documented, why.to_owned());
    }

    /// A row that is tried in another place, or can't be tried yet.
    pub fn elsewhere(&mut self, number: u32, name: &str, why: &str) {
        self.add(number, name, Verdict::Elsewhere, why.to_owned());
    }

    /// A row that can't be tried here.
    pub fn skip(&mut self, number: u32, name: &str, why: &str) {
        self.add(number, name, Verdict::Skipped, why.to_owned());
    }

    /// A row of the suite's own: a part of it that broke off.
    pub fn broke_off(&mut self, part: &str, why: &str) {
        self.add(0, &format!("the suite's part `{part}`"), Verdict::Failed, why.to_owned());
    }

    /// Rows for attacks that ran in a sandbox, each beside its control.
    pub fn judge(&mut self, suffix: &str, attacks: &[Finding], controls: &[Finding]) {
        // What was to be tried is what the controls say: an attack that tells nothing of itself has not failed to escape.
        for control in controls {
            let name = format!("{}{suffix}", control.name);
            let attack = attacks.iter().find(|each| (each.number, &each.name) == (control.number, &control.name));
            let (verdict, why) = match attack {
                None => (Verdict::Failed, "it did not run".to_owned()),
                Some(attack) if attack.reached => match &control.known {
                    Some(known) => (Verdict::Documented, known.clone()),
                    None => (Verdict::Failed, format!("ESCAPED: {}", attack.detail)),
                },
                // A kernel without the thing says so to everybody.
                Some(attack) if attack.detail == control.detail && control.missing.contains(&control.detail) => {
                    (Verdict::NoControl, format!("{} on the host as well", attack.detail))
                }
                Some(attack) if !control.denied.contains(&attack.detail) => {
                    (Verdict::Failed, format!("{} instead of {}", attack.detail, control.denied.join(" or ")))
                }
                Some(attack) if control.reached => (Verdict::Denied, attack.detail.clone()),
                Some(attack) if control.detail == "needs-root" => {
                    (Verdict::NoControl, format!("{}; its control needs root with all capabilities", attack.detail))
                }
                Some(attack) if control.missing.contains(&control.detail) => {
                    (Verdict::NoControl, format!("{}; {} on the host as well", attack.detail, control.detail))
                }
                Some(attack) => {
                    (Verdict::Failed, format!("{}, but the control fails: {}", attack.detail, control.detail))
                }
            };
            self.add(control.number, &name, verdict, why);
        }
    }

    /// Prints the table and fails the test if a row did, or if all was to be tried and a number of the catalogue is nowhere
    /// in it.
    #[track_caller]
    pub fn finish(mut self, all: bool) {
        self.rows.sort_by_key(|row| row.number);
        let mut text = self.rows();
        text += &self.counts();
        let missing: Vec<u32> =
            (1..=CATALOGUE).filter(|number| all && !self.rows.iter().any(|row| row.number == *number)).collect();
        if !missing.is_empty() {
            let _ = writeln!(text, "  FAILED: numbers of the catalogue that nothing is said about: {missing:?}");
        }
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
        // Once more, where a log that lost its middle still has it.
        let failures = self.failures();
        let count = self.count(Verdict::Failed, None);
        assert!(count == 0 && missing.is_empty(), "{count} failed, missing numbers: {missing:?}{failures}");
    }

    /// A line for each that failed.
    fn failures(&self) -> String {
        let cells = self.rows.iter().flat_map(|row| row.cells.iter().map(move |cell| (row, cell)));
        let failed = cells.filter(|(_, cell)| cell.verdict == Verdict::Failed).map(|(row, cell)| {
            let column = self.columns.get(cell.column).map_or("", String::as_str);
            format!("\n  FAILED {:>3}  {}  ({column}: {})", row.number, row.name, cell.why)
        });
        failed.collect()
    }

    fn rows(&self) -> String {
        let names = self.rows.iter().map(|row| row.name.chars().count());
        let width = names.max().unwrap_or(0).min(70);
        let widths: Vec<usize> = self.columns.iter().map(|name| name.chars().count().max(10)).collect();
        let mut text = format!("\n  no.  {:<width$}", "attack");
        for (name, width) in self.columns.iter().zip(&widths) {
            let _ = write!(text, "  {name:<width$}");
        }
        text.push('\n');
        for row in &self.rows {
            let _ = write!(text, "  {:>3}  {:<width$}", row.number, row.name);
            for (column, width) in widths.iter().enumerate() {
                let cell = row.cells.iter().find(|cell| cell.column == column);
                let _ = write!(text, "  {:<width$}", cell.map_or("-", |cell| cell.verdict.word()));
            }
            let text_of_reasons = self.reasons(row);
            text.truncate(text.trim_end().len());
            text += &text_of_reasons;
            text.push('\n');
        }
        text
    }

    /// Why a row is not plainly denied or contained; once where all columns agree.
    fn reasons(&self, row: &Row) -> String {
        let odd = |cell: &&Cell| !matches!(cell.verdict, Verdict::Denied | Verdict::Contained);
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for cell in row.cells.iter().filter(odd) {
            let column = self.columns.get(cell.column).map_or("", String::as_str);
            match reasons.iter_mut().find(|(why, _)| *why == cell.why) {
                Some((_, columns)) => columns.push(column),
                None => reasons.push((&cell.why, vec![column])),
            }
        }
        let lines = reasons.iter().map(|(why, columns)| match columns.len() == row.cells.len() {
            true => format!("  ({why})"),
            false => format!("  ({}: {why})", columns.join(", ")),
        });
        lines.collect()
    }

    fn count(&self, verdict: Verdict, column: Option<usize>) -> usize {
        let cells = self.rows.iter().flat_map(|row| &row.cells);
        cells.filter(|cell| cell.verdict == verdict && column.is_none_or(|column| cell.column == column)).count()
    }

    fn counts(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, column: Option<usize>| {
            let counts = Verdict::ALL.map(|verdict| (self.count(verdict, column), verdict));
            let all: usize = counts.iter().map(|(count, _)| count).sum();
            let _ = write!(text, "  {name}: {all} verdicts");
            for (count, verdict) in counts {
                let _ = write!(text, ", {count} {}", verdict.word());
            }
            text.push('\n');
        };
        for (column, name) in self.columns.iter().enumerate() {
            line(name, Some(column));
        }
        line("all columns", None);
        let tried = |number: &u32| {
            let of_number = self.rows.iter().filter(|row| row.number == *number).flat_map(|row| &row.cells);
            of_number.into_iter().any(|cell| !matches!(cell.verdict, Verdict::Elsewhere | Verdict::Skipped))
        };
        let count = (1..=CATALOGUE).filter(tried).count();
        let _ = writeln!(text, "  {count} of the catalogue's {CATALOGUE} numbers were tried here");
        text
    }
}

/// What came of the control of something that takes all it can get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// It got through.
    Passed,
    /// It did not, so that the attack shows nothing.
    Failed(String),
    /// There is none, for this reason.
    None(&'static str),
}

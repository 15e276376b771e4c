//! The verdicts of a column, printed as a table at its end.

use crate::probes::Finding;
use std::fmt::Write as _;
use std::io::Write as _;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Denied,
    NoControl,
    Skipped,
    Failed,
}

struct Row {
    number: u32,
    name: String,
    verdict: Verdict,
    why: String,
}

/// The rows of one column.
pub struct Table {
    column: String,
    rows: Vec<Row>,
}

impl Table {
    /// An empty one.
    pub fn new(column: &str) -> Table {
        Table { column: column.to_owned(), rows: Vec::new() }
    }

    fn add(&mut self, number: u32, name: &str, verdict: Verdict, why: String) {
        self.rows.push(Row { number, name: name.to_owned(), verdict, why });
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

    /// A row that can't be tried here.
    pub fn skip(&mut self, number: u32, name: &str, why: &str) {
        self.add(number, name, Verdict::Skipped, why.to_owned());
    }

    /// Rows for attacks that ran in a sandbox, each beside its control.
    pub fn judge(&mut self, suffix: &str, attacks: &[Finding], controls: &[Finding]) {
        // What was to be tried is what the controls say: an attack that tells nothing of itself has not failed to escape.
        for control in controls {
            let name = format!("{}{suffix}", control.name);
            let attack = attacks.iter().find(|each| (each.number, &each.name) == (control.number, &control.name));
            let (verdict, why) = match attack {
                None => (Verdict::Failed, "it did not run".to_owned()),
                Some(attack) if attack.reached => (Verdict::Failed, format!("ESCAPED: {}", attack.detail)),
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

    /// Prints the table past the test runner's capture, and fails the test if a row did.
    #[track_caller]
    pub fn finish(mut self) {
        self.rows.sort_by_key(|row| row.number);
        let mut text = format!("\n  no.  verdict     {}\n", self.column);
        for row in &self.rows {
            let verdict = match row.verdict {
                Verdict::Denied => "denied",
                Verdict::NoControl => "no control",
                Verdict::Skipped => "SKIPPED",
                Verdict::Failed => "FAILED",
            };
            let why = if row.why.is_empty() { String::new() } else { format!(" ({})", row.why) };
            let _ = writeln!(text, "  {:>3}  {verdict:<10}  {}{why}", row.number, row.name);
        }
        let count = |verdict| self.rows.iter().filter(|row| row.verdict == verdict).count();
        let failed = count(Verdict::Failed);
        let _ = writeln!(
            text,
            "  {}: {} attacks, {} denied, {} denied without a control on this host, {} skipped, {failed} failed",
            self.column,
            self.rows.len(),
            count(Verdict::Denied),
            count(Verdict::NoControl),
            count(Verdict::Skipped),
        );
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
        assert_eq!(failed, 0, "{}: {failed} rows failed, see the table", self.column);
    }
}

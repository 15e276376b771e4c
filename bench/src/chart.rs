//! A run as a picture: above, what one client waits for each language, beside the floors; below, what many clients get.

use crate::floors::Floor;
use crate::hello::Language;
use crate::latency::{Latencies, Pace};
use crate::load::Load;
use crate::run::Results;
use crate::setup::Setup;
use crate::summary::{Summary, figure};
use crate::svg::{Anchor, Drawing, GREY};

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
/// Where the scale of latencies begins and ends.
const SCALE_LEFT: f64 = 310.0;
const SCALE_RIGHT: f64 = 830.0;
const ROW: f64 = 20.0;
const GROUP_GAP: f64 = 8.0;
const PLOT_HEIGHT: f64 = 190.0;
const PLOT_GAP: f64 = 62.0;
/// Room for the figures left of a plot.
const MARKS_WIDTH: f64 = 30.0;

const SESSION_LESS: &str = "#3b82f6";
const IN_SESSION: &str = "#12a594";
const BUBBLEWRAP: &str = "#e0761a";
const BUBBLEWRAP_IN_SESSION: &str = "#c2477f";
const POOLS_OFF: &str = "#9a6ee8";

/// One line of the upper part.
struct Row {
    name: String,
    colour: &'static str,
    times: Summary,
}

/// The whole file.
pub fn draw(results: &Results) -> String {
    let mut drawing = Drawing::new(WIDTH);
    drawing.heading(MARGIN, 34.0, "An execution over HTTP, and its floors");
    drawing.text(MARGIN, 54.0, Anchor::Start, &results.machine.described());
    let below = latencies(&mut drawing, results, 84.0);
    let height = loads(&mut drawing, results, below + 40.0);
    drawing.finished(height)
}

/// Draws downwards from `top`; gives where it ended.
fn latencies(drawing: &mut Drawing, results: &Results, top: f64) -> f64 {
    let groups = Language::ALL.map(|language| (language, rows(results, language)));
    let all = groups.iter().flat_map(|(_, rows)| rows);
    let (least, most) = all
        .fold((f64::INFINITY, 0.0_f64), |(least, most), row| (least.min(row.times.p50_ms), most.max(row.times.p99_ms)));
    let (from, to) = ((least * 0.8).ln(), (most * 1.1).ln());
    let x = |ms: f64| SCALE_LEFT + (ms.ln() - from) / (to - from) * (SCALE_RIGHT - SCALE_LEFT);

    drawing.text(MARGIN, top, Anchor::Start, "one client, without pause: p50 ● and p99 ○, ms (logarithmic)");
    let rows_in_all: usize = groups.iter().map(|(_, rows)| rows.len() + 1).sum();
    let bottom = top + 30.0 + rows_in_all as f64 * ROW + groups.len() as f64 * GROUP_GAP;
    for mark in marks(least * 0.8, most * 1.1) {
        drawing.rule((x(mark), top + 24.0), (x(mark), bottom));
        drawing.text(x(mark), top + 18.0, Anchor::Middle, &format!("{mark}"));
    }
    let mut y = top + 38.0;
    for (language, rows) in groups {
        drawing.heading(MARGIN, y + 4.0, language.name());
        y += ROW;
        for Row { name, colour, times } in rows {
            drawing.text(SCALE_LEFT - 14.0, y + 4.0, Anchor::End, &name);
            drawing.line(&[(x(times.p50_ms), y), (x(times.p99_ms) - 3.5, y)], colour);
            drawing.dot((x(times.p50_ms), y), colour, true);
            drawing.dot((x(times.p99_ms), y), colour, false);
            let figures = format!("{} · {}", figure(times.p50_ms), figure(times.p99_ms));
            drawing.text(WIDTH - MARGIN, y + 4.0, Anchor::End, &figures);
            y += ROW;
        }
        y += GROUP_GAP;
    }
    bottom
}

fn rows(results: &Results, language: Language) -> Vec<Row> {
    let at = |setup: Setup| results.latencies.iter().find(|latencies| latencies.setup == setup);
    let floors: &[Floor] = match language {
        Language::Python => &[Floor::Zygote, Floor::BarePython, Floor::BubblewrapPython],
        Language::Javascript => &[Floor::Node],
        Language::Shell => &[Floor::Bash],
    };
    let floors = floors.iter().filter_map(|&floor| {
        let name = if floor == Floor::Zygote { "zygote: fork, call, reap" } else { floor.name() };
        Some(Row { name: format!("floor: {name}"), colour: GREY, times: *at(Setup::Native)?.floor(floor)? })
    });
    let execution = |name: &str, colour, setup, in_session, pace| {
        let latencies: &Latencies = at(setup)?;
        Some(Row { name: name.into(), colour, times: *latencies.execution(language, in_session, pace)? })
    };
    let executions = [
        execution("native, session-less", SESSION_LESS, Setup::Native, false, Pace::WithoutPause),
        execution("native, with time to refill the pool", SESSION_LESS, Setup::Native, false, Pace::PoolFull),
        execution("native, in a session", IN_SESSION, Setup::Native, true, Pace::WithoutPause),
        execution("bubblewrap, session-less", BUBBLEWRAP, Setup::Bubblewrap, false, Pace::WithoutPause),
        execution("native, pools off", POOLS_OFF, Setup::NativeWithoutPools, false, Pace::WithoutPause),
    ];
    floors.chain(executions.into_iter().flatten()).collect()
}

/// 1, 2 and 5 of each decade between two values.
fn marks(least: f64, most: f64) -> Vec<f64> {
    let decades = (least.log10().floor() as i32)..=(most.log10().ceil() as i32);
    let all = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(decade)));
    all.filter(|mark| (least..=most).contains(mark)).collect()
}

const SERIES: [(&str, &str, Setup, bool); 4] = [
    ("native, session-less", SESSION_LESS, Setup::Native, false),
    ("native, in sessions", IN_SESSION, Setup::Native, true),
    ("bubblewrap, session-less", BUBBLEWRAP, Setup::Bubblewrap, false),
    ("bubblewrap, in sessions", BUBBLEWRAP_IN_SESSION, Setup::Bubblewrap, true),
];

/// Draws downwards from `top`; gives where it ended.
fn loads(drawing: &mut Drawing, results: &Results, top: f64) -> f64 {
    drawing.text(MARGIN, top, Anchor::Start, "executions a second, by the number of clients (closed loop)");
    let width = (WIDTH - 2.0 * MARGIN - MARKS_WIDTH - 2.0 * PLOT_GAP) / 3.0;
    for (number, language) in Language::ALL.into_iter().enumerate() {
        let left = MARGIN + MARKS_WIDTH + number as f64 * (width + PLOT_GAP);
        plot(drawing, results, language, (left, top + 44.0), width);
    }
    let mut x = MARGIN;
    let bottom = top + 44.0 + PLOT_HEIGHT + 54.0;
    for (name, colour, _, _) in SERIES {
        drawing.line(&[(x, bottom - 4.0), (x + 20.0, bottom - 4.0)], colour);
        drawing.text(x + 26.0, bottom, Anchor::Start, name);
        x += 190.0;
    }
    drawing.dashed(&[(x, bottom - 4.0), (x + 20.0, bottom - 4.0)], GREY);
    drawing.text(x + 26.0, bottom, Anchor::Start, &format!("floor: {} zygotes", results.loads.zygotes));
    bottom + MARGIN
}

/// One language: its left upper corner and width.
fn plot(drawing: &mut Drawing, results: &Results, language: Language, (left, top): (f64, f64), width: f64) {
    let loads: Vec<&Load> = results.loads.executions.iter().filter(|load| load.case.language == language).collect();
    let floor = (language == Language::Python).then_some(results.loads.zygotes_per_second);
    let most = loads.iter().map(|load| load.per_second).chain(floor).fold(1.0, f64::max);
    let step = step(most);
    let bottom = top + PLOT_HEIGHT;
    let y = |per_second: f64| bottom - per_second / most * PLOT_HEIGHT;
    let mut clients: Vec<usize> = loads.iter().map(|load| load.case.clients).collect();
    clients.sort_unstable();
    clients.dedup();
    let x = |count: usize| {
        let place = clients.iter().position(|&other| other == count).unwrap_or(0);
        left + 12.0 + place as f64 / (clients.len().max(2) - 1) as f64 * (width - 24.0)
    };

    drawing.heading(left, top - 14.0, language.name());
    for mark in (0..).map(|number| f64::from(number) * step).take_while(|&mark| mark <= most) {
        drawing.rule((left, y(mark)), (left + width, y(mark)));
        drawing.text(left - 6.0, y(mark) + 4.0, Anchor::End, &format!("{mark}"));
    }
    for &count in &clients {
        drawing.text(x(count), bottom + 18.0, Anchor::Middle, &count.to_string());
    }
    if let Some(floor) = floor {
        drawing.dashed(&[(left, y(floor)), (left + width, y(floor))], GREY);
    }
    for (_, colour, setup, in_sessions) in SERIES {
        let loads = loads.iter().filter(|load| load.case.setup == setup && load.case.in_sessions == in_sessions);
        let mut points: Vec<(f64, f64)> = loads.map(|load| (x(load.case.clients), y(load.per_second))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        drawing.line(&points, colour);
        points.into_iter().for_each(|point| drawing.dot(point, colour, true));
    }
}

/// Between marks of a scale: 1, 2 or 5 of a decade, so that there are some five.
fn step(most: f64) -> f64 {
    let decade = 10_f64.powf((most / 5.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|digit| digit * decade).into_iter().find(|step| most / step <= 6.0).unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_few_and_round_marks() {
        assert_eq!(marks(0.9, 60.0), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!((step(930.0), step(44.0), step(5.0)), (200.0, 10.0, 1.0));
    }
}

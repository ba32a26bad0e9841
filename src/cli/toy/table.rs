//! The rows of an experiment as Markdown, CSV and JSON.

use serde_json::json;

use super::design::{Arm, Design, TARGET};
use super::draw::RunResult;
use crate::cli::experiment::{self, counted};
use crate::cli::statistics::{Interval, over_seeds, shown};
use crate::session::combine;

/// One row: an arm.
pub struct Row {
    pub method: String,
    pub runs: usize,
    pub samples: usize,
    pub lost: usize,
    /// Passes through the network that a draw takes.
    pub cost: f64,
    pub reward: Option<Interval>,
    pub emd: Option<Interval>,
    pub masses: Vec<Option<Interval>>,
    /// Log of the mean of Z over the populations of all seeds, and half of its 95 % error bar, from how seeds
    /// scatter.
    pub log_z: Option<f64>,
    pub log_z_error: Option<f64>,
    pub ess: Option<Interval>,
    pub resamplings: Option<Interval>,
    pub seconds: Option<Interval>,
}

/// The rows, and what is exact.
pub struct Report {
    pub rows: Vec<Row>,
    /// Whether there are methods that train on the reward.
    tunes: bool,
    /// In words, such as `gmm1, analytic score`.
    pub title: String,
    size: String,
    /// Of the target: mean reward, log Z and masses of the modes.
    reward: f64,
    log_z: f64,
    masses: Vec<f64>,
    command: String,
}

/// Modes of the target with less than this are left out of the table for people.
const VISIBLE: f64 = 0.01;

impl Report {
    /// Of all runs of `design`; their order does not matter.
    pub fn new(design: &Design, results: &[RunResult], typed: &[String]) -> Report {
        let mut results: Vec<&RunResult> = results.iter().collect();
        results.sort_by_key(|run| run.seed);
        let row = |arm: &Arm| {
            let runs: Vec<&RunResult> =
                results.iter().copied().filter(|run| run.method == arm.label).collect();
            // A seed of which no sample is finite says nothing.
            let sound = || runs.iter().filter(|run| run.lost < run.samples);
            let over = |of: &dyn Fn(&RunResult) -> Option<f64>| {
                over_seeds(&sound().filter_map(|run| of(run)).collect::<Vec<f64>>())
            };
            let log_z: Vec<f64> = sound().filter_map(|run| run.log_z).collect();
            let together = (!log_z.is_empty()).then(|| combine(&log_z));
            // The error of one seed is that of its populations.
            let alone = sound().next().and_then(|run| run.log_z_error).filter(|_| log_z.len() == 1);
            Row {
                method: arm.label.clone(),
                runs: runs.len(),
                samples: runs.iter().map(|run| run.samples).sum(),
                lost: runs.iter().map(|run| run.lost).sum(),
                cost: design.cost(arm),
                reward: over(&|run| run.reward),
                emd: over(&|run| run.emd),
                masses: (0..design.toy.modes())
                    .map(|m| over(&|run| run.masses.as_ref().map(|all| all[m])))
                    .collect(),
                log_z: together.as_ref().map(|z| z.log_z),
                log_z_error: together.and_then(|z| z.log_z_error).or(alone),
                ess: over(&|run| run.ess),
                resamplings: over(&|run| run.resamplings),
                seconds: over(&|run| Some(run.seconds)),
            }
        };
        let (Design { populations, particles, draws, alpha, .. }, seeds) = (design, design.seeds.len());
        Report {
            rows: design.arms.iter().map(row).collect(),
            tunes: design.arms.iter().any(Arm::tunes),
            title: format!("{}, {} score", design.toy.name, design.score.name()),
            size: format!(
                "{}; {} of {}, {} from each, alpha {alpha}",
                counted(seeds, "seed"),
                counted(*populations, "population"),
                counted(*particles, "particle"),
                counted(*draws, "draw"),
            ),
            reward: design.target.mean_reward(),
            log_z: design.target.log_z(),
            masses: if design.toy.modes() == 0 { Vec::new() } else { design.target.masses().to_vec() },
            command: experiment::command(typed),
        }
    }

    /// The row of this label.
    pub fn row(&self, label: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.method == label)
    }

    /// Modes that the table for people shows.
    fn visible(&self) -> Vec<usize> {
        (0..self.masses.len()).filter(|m| self.masses[*m] >= VISIBLE).collect()
    }

    /// The table as Markdown, with what must be known to read it, and the command.
    pub fn markdown(&self) -> String {
        let visible = self.visible();
        let (masses, line) = if visible.is_empty() { ("", "") } else { (" masses of modes |", "---|") };
        let mut text = format!("| method | passes a sample | reward | earth mover's distance |{masses}");
        text += " log Z | its error | ESS | resamplings |\n";
        text += &format!("|---|---|---|---|{line}---|---|---|---|\n");
        let cell = Interval::text;
        let number = |x: Option<f64>| x.map_or(String::new(), shown);
        for row in &self.rows {
            text +=
                &format!("| {} | {:.0} | {} | {} |", row.method, row.cost, cell(row.reward), cell(row.emd));
            if !visible.is_empty() {
                let of = |m: &usize| row.masses[*m].map_or(String::new(), |i| format!("{:.3}", i.mean));
                text += &format!(" {} |", visible.iter().map(of).collect::<Vec<_>>().join(" "));
            }
            let rest = [number(row.log_z), number(row.log_z_error), cell(row.ess), cell(row.resamplings)];
            text += &format!(" {} |\n", rest.join(" | "));
        }
        text += &format!(
            "\n{}: {}. Of the target exactly: reward {:.4}, log Z {:.4}",
            self.title, self.size, self.reward, self.log_z
        );
        if !visible.is_empty() {
            let masses: Vec<String> = visible.iter().map(|m| format!("{:.3}", self.masses[*m])).collect();
            text += &format!(", masses {}", masses.join(" "));
        }
        text += ". Brackets are 95 % intervals of the mean over seeds (Student's t); the distance of the target \
                 is that of two sets of its own points, below which no method can be told from it. The error of \
                 log Z is half of a 95 % error bar, from how seeds scatter (of one seed: populations); where Z has \
                 heavy tails, as by methods that follow the gradient, it may be too small.";
        if self.tunes {
            text += " Passes of training are not counted.";
        }
        text.push('\n');
        for row in self.rows.iter().filter(|row| row.lost > 0) {
            text += &format!("\n{}: {} of {} samples are not finite.\n", row.method, row.lost, row.samples);
        }
        text += &format!("\n    {}\n", self.command.replace('\n', "\n    "));
        text
    }

    /// The same as CSV; what is not known is empty.
    pub fn csv(&self) -> String {
        let intervals = |row: &Row| {
            let named = [
                ("reward", row.reward),
                ("emd", row.emd),
                ("ess", row.ess),
                ("resamplings", row.resamplings),
                ("seconds", row.seconds),
            ];
            let masses = row.masses.iter().enumerate().map(|(m, interval)| (format!("mass_{m}"), *interval));
            named
                .map(|(name, interval)| (name.to_string(), interval))
                .into_iter()
                .chain(masses)
                .collect::<Vec<_>>()
        };
        let mut text = "method,runs,samples,lost,passes,log_z,log_z_error".to_string();
        for (name, _) in self.row(TARGET).map(intervals).unwrap_or_default() {
            text += &format!(",{name},{name}_low,{name}_high");
        }
        text.push('\n');
        let number = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
        for row in &self.rows {
            text += &format!("{},{},{},{},{}", row.method, row.runs, row.samples, row.lost, row.cost);
            text += &format!(",{},{}", number(row.log_z), number(row.log_z_error));
            for (_, interval) in intervals(row) {
                text += &format!(",{}", Interval::cells(interval).join(","));
            }
            text.push('\n');
        }
        text
    }

    /// The same as JSON.
    pub fn json(&self) -> String {
        let interval = Interval::json;
        let row = |row: &Row| {
            json!({
                "method": row.method,
                "runs": row.runs,
                "samples": row.samples,
                "lost": row.lost,
                "passes": row.cost,
                "reward": interval(row.reward),
                "emd": interval(row.emd),
                "masses": row.masses.iter().map(|i| interval(*i)).collect::<Vec<_>>(),
                "log_z": row.log_z,
                "log_z_error": row.log_z_error,
                "ess": interval(row.ess),
                "resamplings": interval(row.resamplings),
                "seconds": interval(row.seconds),
            })
        };
        json!({
            "schema": crate::run::SCHEMA,
            "command": self.command,
            "exact": {"reward": self.reward, "log_z": self.log_z, "masses": self.masses},
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
        .to_string()
    }
}

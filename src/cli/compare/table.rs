//! The table of a comparison: as Markdown, CSV and JSON.

use serde_json::{Map, Value, json};

use super::design::Design;
use super::result::RunResult;
use super::statistics::{Interval, mean, over_prompts, quantile};

/// One row: an arm at a budget.
struct Row {
    arm: String,
    budget: f64,
    particles: usize,
    /// Cost, as a multiple of the first arm's with its own particles.
    cost: f64,
    runs: usize,
    /// By name: the mean over runs, and the difference to the arm that all are compared to.
    rewards: Vec<(String, Option<Interval>, Option<Interval>)>,
    roots: Option<(f64, f64)>,
    pictures: Option<f64>,
    distance: Option<f64>,
    kl: Option<f64>,
    /// Share of the runs that have an error of log Z.
    reliable: Option<f64>,
}

/// The rows, and what stands under them.
pub struct Report {
    rows: Vec<Row>,
    against: String,
    prompts: usize,
    seeds: usize,
    command: String,
}

impl Report {
    pub fn new(design: &Design, results: &[RunResult], typed: &[String]) -> Report {
        let names: Vec<String> = std::iter::once("target".to_string())
            .chain(results.first().into_iter().flat_map(|r| r.eval_rewards.keys().cloned()))
            .collect();
        let of_row = |arm: &str, budget: f64| -> Vec<&RunResult> {
            results.iter().filter(|r| r.arm == arm && r.budget == budget).collect()
        };
        let unit = design.arms[0].own_flops();
        let mut rows = Vec::new();
        for (b, &budget) in design.budgets.iter().enumerate() {
            let base = of_row(&design.arms[design.against].label, budget);
            for arm in &design.arms {
                let own = of_row(&arm.label, budget);
                let rewards = names.iter().map(|name| {
                    let values = own.iter().filter_map(|r| Some((r.index, r.value(name)?)));
                    let paired = own.iter().filter_map(|r| {
                        let other = base.iter().find(|o| (o.index, o.seed) == (r.index, r.seed))?;
                        Some((r.index, r.value(name)? - other.value(name)?))
                    });
                    (name.clone(), over_prompts(values), over_prompts(paired))
                });
                let list = |f: &dyn Fn(&RunResult) -> Option<f64>| -> Vec<f64> {
                    own.iter().filter_map(|r| f(r)).collect()
                };
                let mean = |list: Vec<f64>| Some(mean(&list)).filter(|mean| mean.is_finite());
                let roots = list(&|r| Some(r.roots_alive as f64));
                rows.push(Row {
                    arm: arm.label.clone(),
                    budget,
                    particles: arm.particles[b],
                    cost: arm.flops(b) / unit,
                    runs: own.len(),
                    rewards: rewards.collect(),
                    roots: quantile(&roots, 0.5).zip(quantile(&roots, 0.05)),
                    pictures: quantile(&list(&|r| Some(r.distinct_pictures as f64)), 0.5),
                    distance: mean(list(&|r| r.pixel_distance)),
                    kl: mean(list(&|r| r.kl)),
                    reliable: mean(list(&|r| Some(f64::from(u8::from(r.log_z_error.is_some()))))),
                });
            }
        }
        Report {
            rows,
            against: design.arms[design.against].label.clone(),
            prompts: design.prompts.len(),
            seeds: design.seeds.len(),
            command: typed.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
        }
    }

    pub fn markdown(&self) -> String {
        let names: Vec<&str> = self.names();
        let mut text = "| arm | budget | particles | cost | roots, median (5 %) |".to_string();
        for name in &names {
            text += &format!(" {name} | minus {} |", self.against);
        }
        text += " distance | KL, nats | log Z known |\n|---|---|---|---|---|";
        text += &"---|---|".repeat(names.len());
        text += "---|---|---|\n";
        for row in &self.rows {
            text += &format!("| {} | {} | {} | {:.2} |", row.arm, row.budget, row.particles, row.cost);
            text += &match row.roots {
                Some((median, low)) => format!(" {median} ({low}) |"),
                None => " |".into(),
            };
            for (_, value, difference) in &row.rewards {
                text += &format!(" {} |", value.map_or(String::new(), |i| format!("{:.3}", i.mean)));
                let apart = difference.filter(|_| row.arm != self.against);
                text += &format!(
                    " {} |",
                    apart
                        .map_or(String::new(), |i| format!("{:+.3} [{:+.3}, {:+.3}]", i.mean, i.low, i.high))
                );
            }
            let number = |x: Option<f64>| x.map_or(String::new(), |x| format!("{x:.3}"));
            let share = row.reliable.map_or(String::new(), |x| format!("{:.0} %", 100.0 * x));
            text += &format!(" {} | {} | {share} |\n", number(row.distance), number(row.kl));
        }
        text += &format!(
            "\n{} prompts, {} seeds. Differences are paired by prompt and seed; brackets are 95 % intervals by the \
             bootstrap over prompts. Cost 1 is the first arm with its own particles; costs are counted, backward \
             passes included.\n\n    {}\n",
            self.prompts,
            self.seeds,
            self.command.replace('\n', "\n    ")
        );
        text
    }

    pub fn csv(&self) -> String {
        let mut text =
            "arm,budget,particles,cost,runs,roots_median,roots_5_percent,distinct_pictures_median,\
                        pixel_distance,kl,log_z_known"
                .to_string();
        for name in self.names() {
            let name = name.replace(['"', ','], " ");
            text += &format!(
                ",{name},{name}_low,{name}_high,{name}_difference,{name}_difference_low,{name}_difference_high"
            );
        }
        text.push('\n');
        let number = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
        for row in &self.rows {
            text += &format!(
                "\"{}\",{},{},{},{},{},{},{},{},{},{}",
                row.arm.replace('"', "\"\""),
                row.budget,
                row.particles,
                row.cost,
                row.runs,
                number(row.roots.map(|(median, _)| median)),
                number(row.roots.map(|(_, low)| low)),
                number(row.pictures),
                number(row.distance),
                number(row.kl),
                number(row.reliable)
            );
            for (_, value, difference) in &row.rewards {
                for interval in [value, difference] {
                    let parts = [interval.map(|i| i.mean), interval.map(|i| i.low), interval.map(|i| i.high)];
                    parts.into_iter().for_each(|part| text += &format!(",{}", number(part)));
                }
            }
            text.push('\n');
        }
        text
    }

    pub fn json(&self) -> String {
        let interval =
            |i: &Option<Interval>| i.map(|i| json!({"mean": i.mean, "low": i.low, "high": i.high}));
        let row = |row: &Row| {
            let rewards: Map<String, Value> = row
                .rewards
                .iter()
                .map(|(name, value, difference)| {
                    (name.clone(), json!({"value": interval(value), "difference": interval(difference)}))
                })
                .collect();
            json!({
                "arm": row.arm,
                "budget": row.budget,
                "particles": row.particles,
                "cost": row.cost,
                "runs": row.runs,
                "rewards": rewards,
                "roots_median": row.roots.map(|(median, _)| median),
                "roots_5_percent": row.roots.map(|(_, low)| low),
                "distinct_pictures_median": row.pictures,
                "pixel_distance": row.distance,
                "kl": row.kl,
                "log_z_known": row.reliable,
            })
        };
        json!({
            "schema": crate::run::SCHEMA,
            "command": self.command,
            "against": self.against,
            "prompts": self.prompts,
            "seeds": self.seeds,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
        .to_string()
    }

    fn names(&self) -> Vec<&str> {
        self.rows
            .first()
            .map(|row| row.rewards.iter().map(|(name, ..)| name.as_str()).collect())
            .unwrap_or_default()
    }
}

/// A word of a command as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

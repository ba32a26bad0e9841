//! Points with two numbers each: what a run was aligned to, against what it was not.

use maud::{Markup, html};

use super::plot::{Plot, figure, mark};
use crate::cli::look::Run;
use crate::cli::words;

/// The target of every particle against each held-out reward.
pub fn held_out(run: &Run) -> Markup {
    html! { @for name in run.held_out() { (one(run, name)) } }
}

fn one(run: &Run, name: &str) -> Markup {
    let points: Vec<(usize, bool, f64, f64)> = run
        .particles
        .iter()
        .filter_map(|p| Some((p.index, p.is_best, p.target?, p.eval_rewards.get(name)?.as_f64()?)))
        .collect();
    let (x, y) = (points.iter().map(|p| p.2), points.iter().map(|p| p.3));
    let name = words::clean(name);
    let Some(plot) = Plot::new(x, y, false, format!("reward: {}", words::clean(&run.target()))) else {
        let why = html! { "No particle has finite values of both." };
        return figure(&format!("Held out: {name}"), &why, None, &html! {});
    };
    let agreement = correlation(&points.iter().map(|p| (p.2, p.3)).collect::<Vec<_>>());
    let inner = html! {
        @for (index, chosen, x, y) in &points {
            g data-p=(index) class=[chosen.then_some("chosen")] {
                path.point d=(mark(0, plot.at(*x, *y), 4.0)) {}
            }
        }
    };
    let label = format!("{name} against the reward, {} particles", points.len());
    let about = html! {
        "Of the final pictures; nothing was aligned to " (name) "."
        @if let Some(r) = agreement { " Correlation " (format!("{r:.2}")) "." }
        @let lacking = run.particles.len() - points.len();
        @if lacking > 0 { " " (lacking) " without finite values are left out." }
    };
    figure(&format!("Held out: {name}"), &about, None, &plot.svg(&label, None, &inner))
}

/// Pearson's correlation; `None` of fewer than three points, or where one number does not vary.
fn correlation(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let sum = |of: fn(f64, f64) -> f64| points.iter().map(|p| of(p.0 - x, p.1 - y)).sum::<f64>();
    let (xy, xx, yy) = (sum(|x, y| x * y), sum(|x, _| x * x), sum(|_, y| y * y));
    let r = xy / (xx * yy).sqrt();
    (points.len() > 2 && r.is_finite()).then_some(r)
}

#[cfg(test)]
mod tests {
    use super::correlation;

    #[test]
    fn the_correlation_is_that_of_the_textbook() {
        let line = [(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)];
        assert!((correlation(&line).unwrap() - 1.0).abs() < 1e-12);
        // Means 1 and 1; sums of products 1, 2 and 2: r = 1 / 2.
        assert!((correlation(&[(0.0, 1.0), (1.0, 0.0), (2.0, 2.0)]).unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(correlation(&[(0.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(correlation(&[(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)]), None);
    }
}

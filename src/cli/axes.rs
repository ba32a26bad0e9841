//! Axes and marks of charts, whoever draws them.

use std::ops::Range;

/// Corners of the shapes, as multiples of a marker's size; the first, without corners, is a disk. There are
/// eight: with seven colours, 56 series differ.
pub const SHAPES: [&[(f64, f64)]; 8] = [
    &[],
    &[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    &[(0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
    &[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
    &[(0.0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
    &[
        (-0.4, -1.2),
        (0.4, -1.2),
        (0.4, -0.4),
        (1.2, -0.4),
        (1.2, 0.4),
        (0.4, 0.4),
        (0.4, 1.2),
        (-0.4, 1.2),
        (-0.4, 0.4),
        (-1.2, 0.4),
        (-1.2, -0.4),
        (-0.4, -0.4),
    ],
    &[(-1.2, 0.0), (0.8, -1.1), (0.8, 1.1)],
    &[(1.2, 0.0), (-0.8, -1.1), (-0.8, 1.1)],
];

/// A direction of a chart: where values are drawn, and which are written beside it.
pub struct Axis {
    log: bool,
    /// Places, which of a logarithmic axis are powers of ten.
    low: f64,
    high: f64,
    /// Values, not places.
    ticks: Vec<f64>,
    /// Decimals of the labels of a linear axis.
    decimals: usize,
}

impl Axis {
    /// An axis on which all `values` have room.
    pub fn new(values: impl Iterator<Item = f64>, log: bool) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            let place = if log { value.log10() } else { value };
            (low, high) = (low.min(place), high.max(place));
        }
        // Where all values are one, it gets some room.
        let alone = if log { 0.3 } else { 0.1 * high.abs().max(1.0) };
        let room = if high > low { 0.06 * (high - low) } else { alone };
        let mut axis = Axis { log, low: low - room, high: high + room, ticks: Vec::new(), decimals: 0 };
        if log {
            let decades = axis.low.floor() as i32..=axis.high.ceil() as i32;
            let marked = |digits: &[i32]| {
                let ticks =
                    decades.clone().flat_map(|k| digits.iter().map(move |d| f64::from(*d) * 10_f64.powi(k)));
                ticks.filter(|tick| (axis.low..=axis.high).contains(&tick.log10())).collect::<Vec<_>>()
            };
            let sets: [&[i32]; 3] = [&[1], &[1, 2, 5], &[1, 2, 3, 4, 5, 6, 7, 8, 9]];
            axis.ticks = sets.into_iter().map(marked).find(|ticks| ticks.len() > 2).unwrap_or_default();
        }
        if axis.ticks.is_empty() {
            let (low, high) = (axis.value(axis.low), axis.value(axis.high));
            let step = round_step((high - low) / 7.0);
            axis.decimals = (-step.log10().floor()).max(0.0) as usize;
            let steps = (low / step).ceil() as i64..=(high / step).floor() as i64;
            axis.ticks = steps.map(|i| i as f64 * step).collect();
        }
        axis
    }

    /// Where a value is: 0 at the low end, 1 at the high one.
    pub fn share(&self, value: f64) -> f64 {
        (self.place(value) - self.low) / (self.high - self.low)
    }

    /// The values at both ends.
    pub fn ends(&self) -> Range<f64> {
        self.value(self.low)..self.value(self.high)
    }

    /// The values that are marked.
    pub fn ticks(&self) -> &[f64] {
        &self.ticks
    }

    fn place(&self, value: f64) -> f64 {
        if self.log { value.log10() } else { value }
    }

    fn value(&self, place: f64) -> f64 {
        if self.log { 10_f64.powf(place) } else { place }
    }

    /// What stands at a tick.
    pub fn label(&self, value: f64) -> String {
        let decimals = match self.decimals {
            0 if self.log => (-value.log10().floor()).max(0.0) as usize,
            decimals => decimals,
        };
        let text = format!("{value:.decimals$}");
        if text.trim_start_matches(['-', '0', '.']).is_empty() { text.replace('-', "") } else { text }
    }
}

/// The next of 1, 2, 5, 10, ... times a power of ten.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powi(least.log10().floor() as i32);
    let digit = [1.0, 2.0, 5.0].into_iter().find(|digit| digit * power >= least);
    digit.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: &[f64], log: bool) -> Vec<String> {
        let axis = Axis::new(values.iter().copied(), log);
        axis.ticks.iter().map(|tick| axis.label(*tick)).collect()
    }

    #[test]
    fn axes_are_marked_at_round_numbers() {
        assert_eq!(labels(&[0.0, 1.0], false), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(&[-30.0, 70.0], false), ["-20", "0", "20", "40", "60"]);
        assert_eq!(
            labels(&[6.001, 6.004], false),
            ["6.0010", "6.0015", "6.0020", "6.0025", "6.0030", "6.0035", "6.0040"]
        );
        assert_eq!(labels(&[0.25, 4.0], true), ["0.5", "1", "2"]);
        assert_eq!(labels(&[0.03, 2000.0], true), ["0.1", "1", "10", "100", "1000"]);
        // Less than an octave, and one value alone.
        assert!(labels(&[1.11, 1.13], true).len() > 2 && labels(&[3.0], true).len() > 1);
        assert!(labels(&[0.0], false).contains(&"0.00".to_string()));
    }
}

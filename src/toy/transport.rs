//! The earth mover's distance: exact optimal transport between two sets of as many points.

use super::Point;

/// The first Wasserstein distance between the empirical laws of `a` and `b`, with Euclidean cost: the least
/// mean distance of pairs, over all ways of pairing their points. Exact, in cubic time.
///
/// # Panics
/// Where the sets differ in size, are empty, or hold a coordinate that is not finite.
#[track_caller]
pub fn distance(a: &[Point], b: &[Point]) -> f64 {
    assert!(a.len() == b.len() && !a.is_empty(), "{} points against {}", a.len(), b.len());
    assert!(a.iter().chain(b).flatten().all(|x| x.is_finite()), "a point is not finite");
    let far = |p: &Point, q: &Point| p.iter().zip(q).map(|(p, q)| (p - q) * (p - q)).sum::<f64>().sqrt();
    let cost: Vec<f64> = a.iter().flat_map(|p| b.iter().map(move |q| far(p, q))).collect();
    let n = a.len();
    let pairs = assignment(&cost, n);
    pairs.iter().enumerate().map(|(row, column)| cost[row * n + column]).sum::<f64>() / n as f64
}

/// The cheapest assignment of each of `n` rows to a column of its own, `cost[row n + column]`: shortest
/// augmenting paths with dual prices (Jonker, Volgenant, "A shortest augmenting path algorithm for dense and
/// sparse linear assignment problems", Computing 38, 1987). One row after another is assigned: a search as
/// Dijkstra's over the reduced costs finds the nearest free column, and the rows on the way move on.
fn assignment(cost: &[f64], n: usize) -> Vec<usize> {
    // Prices of rows and columns; reduced costs `cost - row - column` are never negative, and 0 where
    // assigned.
    let (mut row_price, mut column_price) = (vec![0.0; n], vec![0.0; n]);
    let (mut column_of, mut row_of): (Vec<Option<usize>>, Vec<Option<usize>>) =
        (vec![None; n], vec![None; n]);
    let (mut shortest, mut before) = (vec![0.0; n], vec![0; n]);
    for start in 0..n {
        shortest.fill(f64::INFINITY);
        let mut open: Vec<usize> = (0..n).collect();
        let (mut closed, mut reached, mut row) = (Vec::new(), 0.0, start);
        let free = loop {
            let (mut nearest, mut place) = (f64::INFINITY, 0);
            for (at, &column) in open.iter().enumerate() {
                let way = reached + (cost[row * n + column] - row_price[row] - column_price[column]);
                if way < shortest[column] {
                    (shortest[column], before[column]) = (way, row);
                }
                // Of equals a free column ends the search sooner.
                let better = shortest[column] < nearest
                    || (shortest[column] == nearest
                        && row_of[column].is_none()
                        && row_of[open[place]].is_some());
                if better {
                    (nearest, place) = (shortest[column], at);
                }
            }
            let column = open.swap_remove(place);
            reached = nearest;
            match row_of[column] {
                None => break column,
                Some(next) => row = next,
            }
            closed.push(column);
        };
        row_price[start] += reached;
        for column in closed {
            let rest = reached - shortest[column];
            column_price[column] -= rest;
            if let Some(row) = row_of[column] {
                row_price[row] += rest;
            }
        }
        // Back along the path: each row takes the column after it and leaves its own to the row before.
        let mut column = free;
        loop {
            let row = before[column];
            row_of[column] = Some(row);
            match column_of[row].replace(column) {
                Some(left) => column = left,
                None => break,
            }
        }
    }
    column_of.into_iter().map(Option::unwrap_or_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Key, Purpose, uniforms};

    /// Against all permutations of up to seven points.
    #[test]
    fn small_assignments_are_the_best_of_all() {
        fn least(cost: &[f64], n: usize, row: usize, used: &mut Vec<bool>) -> f64 {
            if row == n {
                return 0.0;
            }
            let mut best = f64::INFINITY;
            for column in 0..n {
                if !std::mem::replace(&mut used[column], true) {
                    best = best.min(cost[row * n + column] + least(cost, n, row + 1, used));
                    used[column] = false;
                }
            }
            best
        }
        let mut u = uniforms(Key { seed: 2, prompt: 0, particle: 0, step: 0, purpose: Purpose::Data });
        for n in 1..=7 {
            for whole in [false, true] {
                // Whole costs have many ties.
                let mut cost = || if whole { (4.0 * u.draw()).floor() } else { u.draw() };
                let cost: Vec<f64> = (0..n * n).map(|_| cost()).collect();
                let columns = assignment(&cost, n);
                let mut sorted = columns.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..n).collect::<Vec<_>>(), "each column once");
                let total: f64 = columns.iter().enumerate().map(|(row, column)| cost[row * n + column]).sum();
                let best = least(&cost, n, 0, &mut vec![false; n]);
                assert!((total - best).abs() < 1e-12, "n = {n}: {total} against {best}");
            }
        }
    }

    #[test]
    fn a_set_moved_by_a_vector_is_as_far_as_the_vector_is_long() {
        let mut u = uniforms(Key { seed: 3, prompt: 0, particle: 0, step: 0, purpose: Purpose::Data });
        let a: Vec<Point> = (0..200).map(|_| [u.draw(), u.draw(), u.draw()]).collect();
        let b: Vec<Point> = a.iter().rev().map(|x| [x[0] + 3.0, x[1] - 4.0, x[2]]).collect();
        assert_eq!(distance(&a, &a), 0.0);
        assert!((distance(&a, &b) - 5.0).abs() < 1e-12);
    }
}

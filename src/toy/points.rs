//! Point sets of files.

use super::{Law, MOST_DIMENSIONS, Mixture, Point};
use crate::error::{Error, Result};
use crate::smc::log_sum_exp;
use crate::smc::math::ln;

/// Most points of a set: a step looks at all of them for every particle.
const MOST: usize = 10_000;
/// Coordinates beyond this are not reached by a chain that begins at N(0, I).
const FARTHEST: f64 = 16.0;
/// The last step of the chain knows a point to within 0.01; a set must be wider than that.
const NARROWEST: f64 = 0.1;
/// Most points that the bandwidth is chosen by.
const JUDGES: usize = 2000;

/// Points of two or three coordinates, and how far each is blurred.
///
/// The score of the bare points would send every particle onto one of them: a sampler of that chain copies
/// its data, and the smooth law behind the points is not seen. So the law is their kernel density
/// estimate, a normal distribution around each point, whose standard deviation (the bandwidth) is the one
/// under which the points predict one another best (likelihood cross-validation: Habbema, Hermans, van den
/// Broek 1974; Duin 1976). A forward diffusion of the bare points passes through the same law.
#[derive(Clone, Debug, PartialEq)]
pub struct PointSet {
    /// 2 or 3.
    pub dimensions: usize,
    /// At least two different ones.
    pub points: Vec<Point>,
    /// Standard deviation of the kernel.
    pub bandwidth: f64,
}

/// How wide the kernel is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bandwidth {
    /// By likelihood cross-validation.
    Chosen,
    /// This standard deviation.
    Given(f64),
}

impl PointSet {
    /// Reads comma-separated numbers, a point per line; blank lines and those that begin with `#` are left
    /// out, and so is a first line of which no cell begins as a number does, which names the columns. A byte
    /// order mark is skipped. `name` is for messages.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming the line: no number, not finite, another number
    /// of columns than the line before, not two or three; fewer than two different points, more than 10 000;
    /// coordinates beyond 16 or a set narrower than 0.1, which the chain does not resolve; a bandwidth that
    /// is no positive number, or beyond 16.
    pub fn parse(name: &str, text: &str, bandwidth: Bandwidth) -> Result<PointSet> {
        let wrong = |what: String, fix: &str| Err(Error::usage(format!("{name}: {what}")).advice(fix));
        let form = "give a file of comma-separated numbers, two or three in every line";
        let (mut dimensions, mut points, mut begun) = (None, Vec::new(), false);
        let is_name =
            |cell: &str| !cell.trim_start_matches(['+', '-', '.']).starts_with(|c: char| c.is_ascii_digit());
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let (line, at) = (line.trim(), number + 1);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let cells: Vec<Option<f64>> = line.split(',').map(|cell| cell.trim().parse().ok()).collect();
            let first = !std::mem::replace(&mut begun, true);
            if first && cells.iter().all(Option::is_none) && line.split(',').all(|cell| is_name(cell.trim()))
            {
                continue;
            }
            let Some(values) = cells.into_iter().collect::<Option<Vec<f64>>>() else {
                let shown: String = line.chars().take(40).collect();
                return wrong(format!("line {at} holds what is no number: {shown:?}"), form);
            };
            if !(2..=MOST_DIMENSIONS).contains(&values.len()) {
                return wrong(format!("line {at} has {} numbers", values.len()), form);
            }
            if *dimensions.get_or_insert(values.len()) != values.len() {
                let first = dimensions.unwrap_or_default();
                return wrong(
                    format!("line {at} has {} numbers, those before it {first}", values.len()),
                    form,
                );
            }
            if let Some(value) = values.iter().find(|v| !v.is_finite()) {
                return wrong(format!("line {at} holds {value}"), "remove points that are not finite");
            }
            if let Some(value) = values.iter().find(|v| v.abs() > FARTHEST) {
                return wrong(
                    format!("line {at} holds {value}, and the chain carries points of at most {FARTHEST}"),
                    "scale the points, for example to a standard deviation of 3 around 0",
                );
            }
            let mut point = Point::default();
            point.iter_mut().zip(values).for_each(|(x, v)| *x = v);
            points.push(point);
        }
        if points.len() > MOST {
            return wrong(
                format!("{} points, of at most {MOST}", points.len()),
                "leave out some, for example every other line",
            );
        }
        let Some(dimensions) = dimensions.filter(|_| points.len() > 1) else {
            return wrong(
                format!("{} point{}", points.len(), if points.len() == 1 { "" } else { "s" }),
                form,
            );
        };
        let wide = spread(&points, dimensions);
        if wide < NARROWEST {
            return wrong(
                format!("the points have a standard deviation of {wide:.3}, below {NARROWEST}"),
                "scale the points, for example to a standard deviation of 3",
            );
        }
        let bandwidth = match bandwidth {
            Bandwidth::Given(h) if h > 0.0 && h <= FARTHEST => h,
            Bandwidth::Given(h) => {
                return Err(Error::usage(format!("a bandwidth of {h}")).option("bandwidth").advice(format!(
                    "give `bandwidth` a number above 0 and of at most {FARTHEST}, or leave it out"
                )));
            }
            Bandwidth::Chosen => chosen(&points, wide),
        };
        Ok(PointSet { dimensions, points, bandwidth })
    }

    /// The kernel density estimate.
    pub fn law(&self) -> Law {
        let centres = self.points.iter().flat_map(|x| x.iter().copied().take(self.dimensions)).collect();
        let variance = self.bandwidth * self.bandwidth;
        Law { factors: vec![Mixture { dimensions: self.dimensions, centres, variance }] }
    }
}

/// Root of the mean variance of the coordinates.
fn spread(points: &[Point], dimensions: usize) -> f64 {
    let n = points.len() as f64;
    let variance = |i: usize| {
        let mean = points.iter().map(|x| x[i]).sum::<f64>() / n;
        points.iter().map(|x| (x[i] - mean) * (x[i] - mean)).sum::<f64>() / n
    };
    ((0..dimensions).map(variance).sum::<f64>() / dimensions as f64).sqrt()
}

/// The bandwidth, of 25 from a hundredth of the spread to the whole, a factor of `100^(1/24)` apart, with the
/// largest product of the densities of the points, each under the kernels of the others. Of many points,
/// evenly chosen ones are asked.
fn chosen(points: &[Point], spread: f64) -> f64 {
    let every = points.len().div_ceil(JUDGES);
    let asked: Vec<&Point> = points.iter().step_by(every).collect();
    let dimensions = if points.iter().any(|x| x[2] != 0.0) { 3.0 } else { 2.0 };
    let squared = |a: &Point, b: &Point| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    let fit = |h: f64| {
        let one = |(i, x): (usize, &&Point)| {
            let others = points.iter().enumerate().filter(|(j, _)| *j != i * every);
            let exponents: Vec<f64> = others.map(|(_, y)| -0.5 * squared(x, y) / (h * h)).collect();
            log_sum_exp(&exponents) - dimensions * ln(h)
        };
        asked.iter().enumerate().map(one).sum::<f64>()
    };
    // 100^(1/24), by products alone.
    const FACTOR: f64 = 1.211_527_658_628_589;
    let mut h = 0.01 * spread;
    let mut best = (f64::NEG_INFINITY, h);
    for _ in 0..25 {
        let found = fit(h);
        if found > best.0 {
            best = (found, h);
        }
        h *= FACTOR;
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::Toy;

    #[test]
    fn what_is_no_point_set_is_refused() {
        for (text, said) in [
            ("", "0 points"),
            ("# x,y\n\n", "0 points"),
            ("1,2\n", "1 point"),
            ("x,y\n1,2\n", "1 point"),
            ("1,2\n3,4,5\n", "line 2 has 3 numbers"),
            ("1,2\n3,nan\n", "line 2 holds NaN"),
            ("1,2\ninf,1\n", "line 2 holds inf"),
            ("1,2\na,1\n", "line 2 holds what is no number"),
            ("1\n2\n", "line 1 has 1 numbers"),
            ("1,2,3,4\n", "line 1 has 4 numbers"),
            ("1,2\n1,2\n", "deviation of 0.000"),
            ("1,2\n100,2\n", "at most 16"),
            ("not a table at all\n", "0 points"),
        ] {
            let error = PointSet::parse("f.csv", text, Bandwidth::Chosen).expect_err(text).to_string();
            assert!(error.contains("f.csv: ") && error.contains(said), "{text:?}: {error}");
        }
        assert!(PointSet::parse("f", &"1,2\n3,4\n".repeat(5001), Bandwidth::Chosen).is_err());
        for h in [0.0, -1.0, f64::NAN] {
            let error =
                PointSet::parse("f", "1,2\n3,4\n", Bandwidth::Given(h)).expect_err("refused").to_string();
            assert!(error.contains("bandwidth"), "{error}");
        }
        let set = PointSet::parse("f", "x,y,z\n1, 2,-3\n\n# no point\n4,5,6\n", Bandwidth::Given(0.5))
            .expect("a set");
        assert_eq!(set.points, [[1.0, 2.0, -3.0], [4.0, 5.0, 6.0]]);
        assert_eq!((set.dimensions, set.bandwidth), (3, 0.5));
    }

    /// For points of one normal distribution the best bandwidth is near Silverman's rule, `sigma n^(-1/6)` in
    /// the plane; of points in narrow modes it is that of the modes and not of the whole.
    #[test]
    fn the_bandwidth_suits_the_points() {
        let mut z = vec![0.0_f32; 800];
        let key = crate::noise::Key {
            seed: 1,
            prompt: 0,
            particle: 0,
            step: 0,
            purpose: crate::noise::Purpose::Data,
        };
        crate::noise::fill_normals(&key, &mut z);
        let normal: Vec<Point> = z.chunks(2).map(|z| [f64::from(z[0]), f64::from(z[1]), 0.0]).collect();
        let h = chosen(&normal, 1.0);
        let rule = 400_f64.powf(-1.0 / 6.0);
        println!("{h:.3}, by the rule {rule:.3}");
        assert!((h / rule).ln().abs() < 0.4);
        let modes: Vec<Point> = (0..600).map(|i| Toy::gmm1().draw(2, 0, i)).collect();
        let h = chosen(&modes, spread(&modes, 2));
        println!("of modes of {:.2}: {h:.3}", 0.3_f64.sqrt());
        assert!(h < 0.5, "{h}");
    }
}

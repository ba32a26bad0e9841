//! Adam (Kingma, Ba 2015) for networks that fit on the host.

use rayon::prelude::*;

/// State of the optimiser, as `torch.optim.Adam` with its defaults: betas 0.9 and 0.999, eps 1e-8, no weight
/// decay. In f64, of parameters in f32.
#[derive(Clone, Debug)]
pub struct Adam {
    rate: f64,
    /// First and second moments of each parameter tensor.
    moments: Vec<Vec<(f64, f64)>>,
    /// `beta^steps` of both.
    powers: (f64, f64),
}

const BETAS: (f64, f64) = (0.9, 0.999);
const EPS: f64 = 1e-8;

/// Parameters that a thread takes at least.
const SHARE: usize = 1 << 14;

impl Adam {
    /// An optimiser of tensors of these sizes at a learning rate.
    pub fn new(rate: f64, sizes: impl Iterator<Item = usize>) -> Adam {
        Adam { rate, moments: sizes.map(|n| vec![(0.0, 0.0); n]).collect(), powers: (1.0, 1.0) }
    }

    /// One step down the gradients, one for each tensor.
    ///
    /// # Panics
    /// Where sizes differ from those at the start.
    #[track_caller]
    pub fn step<'a>(&mut self, parameters: impl Iterator<Item = &'a mut Vec<f32>>, gradients: &[Vec<f32>]) {
        self.powers = (self.powers.0 * BETAS.0, self.powers.1 * BETAS.1);
        let (first, second) = (1.0 - self.powers.0, 1.0 - self.powers.1);
        for ((parameters, gradients), moments) in parameters.zip(gradients).zip(&mut self.moments) {
            assert_eq!(
                (parameters.len(), gradients.len()),
                (moments.len(), moments.len()),
                "sizes of tensors"
            );
            let all = parameters.par_iter_mut().zip(gradients).zip(moments).with_min_len(SHARE);
            all.for_each(|((parameter, &gradient), (m, v))| {
                let g = f64::from(gradient);
                *m = BETAS.0 * *m + (1.0 - BETAS.0) * g;
                *v = BETAS.1 * *v + (1.0 - BETAS.1) * (g * g);
                let step = self.rate * (*m / first) / ((*v / second).sqrt() + EPS);
                *parameter = (f64::from(*parameter) - step) as f32;
            });
        }
    }
}

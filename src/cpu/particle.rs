//! Moving particles on the host: noise by slot, and the transition with its density ratio in one pass.

use rayon::prelude::*;

use super::parallel::{simd, sums};
use crate::backend::{Advance, ParticleId};
use crate::noise::{Key, Purpose, fill_normals, fill_normals_at};

fn key(seed: u64, step: u32, purpose: Purpose, id: ParticleId) -> Key {
    Key { seed, prompt: id.prompt, particle: id.particle, step, purpose }
}

/// Standard normals of each particle, `sample` elements each.
pub fn normals(sample: usize, seed: u64, step: u32, purpose: Purpose, ids: &[ParticleId], out: &mut [f32]) {
    out.par_chunks_exact_mut(sample)
        .zip(ids)
        .for_each(|(out, &id)| fill_normals(&key(seed, step, purpose, id), out));
}

/// Elements worked on at a time: the noise of a piece stays in the first-level cache.
const PIECE: usize = 1024;

/// One transition of all particles; see [`Backend::advance`](crate::backend::Backend::advance). `x0`, `eps` and
/// `grad` hold the particles *before* the gather, `sample` elements each; slot `i` continues particle
/// `ancestors[i]` with noise of its own id `advance.ids[i]`. Returns `log p - log m` of each slot.
#[allow(clippy::too_many_arguments)]
pub fn advance(
    x0: &[f32],
    eps: &[f32],
    grad: Option<&[f32]>,
    sample: usize,
    ancestors: &[u32],
    strength: &[f32],
    advance: Advance<'_>,
    out: &mut [f32],
) -> Vec<f64> {
    let slots: Vec<_> = out.chunks_exact_mut(sample).enumerate().collect();
    slots
        .into_par_iter()
        .map(|(slot, out)| {
            let from = ancestors[slot] as usize * sample;
            let (x0, eps) = (&x0[from..][..sample], &eps[from..][..sample]);
            for ((o, &x0), &eps) in out.iter_mut().zip(x0).zip(eps) {
                *o = advance.mean_x0 * x0 + advance.mean_eps * eps;
            }
            if advance.variance == 0.0 {
                return 0.0;
            }
            let grad = grad.map(|g| &g[from..][..sample]);
            let key = key(advance.seed, advance.step, advance.purpose, advance.ids[slot]);
            transition(grad, f64::from(strength[slot]), advance, &key, out)
        })
        .collect()
}

/// Adds drift and noise to the mean in `out`; returns `-1/2 kappa^2 v |s g|^2 - kappa sqrt(v) <s g, z>`.
fn transition(grad: Option<&[f32]>, s: f64, advance: Advance<'_>, key: &Key, out: &mut [f32]) -> f64 {
    let (kappa, v) = (f64::from(advance.kappa), f64::from(advance.variance));
    let sigma = v.sqrt() as f32;
    let drift = (kappa * v * s) as f32;
    let (mut gg, mut gz) = (0.0, 0.0);
    let mut noise = [0.0; PIECE];
    for (piece, out) in out.chunks_mut(PIECE).enumerate() {
        let z = &mut noise[..out.len()];
        fill_normals_at(key, piece * PIECE, z);
        let Some(grad) = grad else {
            out.iter_mut().zip(&*z).for_each(|(o, &z)| *o += sigma * z);
            continue;
        };
        let g = &grad[piece * PIECE..][..z.len()];
        let (more_gg, more_gz) = simd(
            #[inline(always)]
            || {
                for ((o, &z), &g) in out.iter_mut().zip(&*z).zip(g) {
                    *o += drift * g + sigma * z;
                }
                sums(
                    z.len(),
                    #[inline(always)]
                    |i| (f64::from(g[i]) * f64::from(g[i]), f64::from(g[i]) * f64::from(z[i])),
                )
            },
        );
        gg += more_gg;
        gz += more_gz;
    }
    if grad.is_none() { 0.0 } else { -0.5 * kappa * kappa * v * s * s * gg - kappa * v.sqrt() * s * gz }
}

/// Squared Euclidean length of each sample.
pub fn squared_norms(x: &[f32], sample: usize) -> Vec<f64> {
    x.par_chunks_exact(sample).map(|x| x.iter().map(|&v| f64::from(v) * f64::from(v)).sum()).collect()
}

//! Moving particles on the host: noise by slot, and the transition with its density ratio in one pass.

use rayon::prelude::*;

use super::Cpu;
use super::parallel::{simd, sums};
use crate::error::Result;
use crate::noise::{Key, Purpose, fill_normals, fill_normals_at};
use crate::op::{Advance, Description, ParticleId, Particles};
use crate::tensor::{Shape, Tensor};

fn key(seed: u64, step: u32, purpose: Purpose, id: ParticleId) -> Key {
    Key { seed, prompt: id.prompt, particle: id.particle, step, purpose }
}

/// Standard normals of each particle.
pub fn normals(
    cpu: &Cpu,
    d: Description<'_>,
    shape: Shape,
    seed: u64,
    step: u32,
    purpose: Purpose,
    ids: &[ParticleId],
) -> Result<Tensor> {
    cpu.make(d, |out| {
        out.par_chunks_exact_mut(shape.sample())
            .zip(ids)
            .for_each(|(out, &id)| fill_normals(&key(seed, step, purpose, id), out));
    })
}

/// Elements worked on at a time: the noise of a piece stays in the first-level cache.
const PIECE: usize = 1024;

/// One transition of all particles; see [`Backend::advance`](crate::backend::Backend::advance). `particles`
/// are those *before* the gather; slot `i` continues particle `ancestors[i]` with noise of its own id
/// `advance.ids[i]`. Returns the latents, and `log p - log m` of each slot.
pub fn advance(
    cpu: &Cpu,
    d: Description<'_>,
    particles: Particles<'_>,
    ancestors: &[u32],
    strength: &[f32],
    advance: Advance<'_>,
) -> Result<(Tensor, Vec<f64>)> {
    let sample = d.output.sample();
    let (x0, eps, grad) = (cpu.view(particles.x0), cpu.view(particles.eps), cpu.view_of(particles.grad));
    let mut y = cpu.alloc(d.output)?;
    let slots: Vec<_> = y.elements_mut().chunks_exact_mut(sample).enumerate().collect();
    let ratios = slots
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
        .collect();
    Ok((cpu.wrap(&d, y), ratios))
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
pub fn squared_norms(cpu: &Cpu, _: Description<'_>, x: &Tensor) -> Result<Vec<f64>> {
    let samples = cpu.view(x).par_chunks_exact(x.shape().sample());
    Ok(samples.map(|x| x.iter().map(|&v| f64::from(v) * f64::from(v)).sum()).collect())
}

/// `score` where that sample of `by` is finite.
pub fn where_finite(cpu: &Cpu, d: Description<'_>, score: &Tensor, by: &Tensor) -> Result<Tensor> {
    let norms = squared_norms(cpu, d, by)?;
    cpu.make(d, |y| {
        for ((y, &score), norm) in y.iter_mut().zip(cpu.view(score)).zip(norms) {
            *y = if norm.is_finite() { score } else { f32::NAN };
        }
    })
}

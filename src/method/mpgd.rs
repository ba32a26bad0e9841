//! MPGD: manifold preserving guided diffusion (He, Murata, Lai, Takida, Uesaka, Kim, Liao, Mitsufuji, Kolter,
//! Salakhutdinov, Ermon, ICLR 2024; docs/spec.md 10.1), as its program does it for Stable Diffusion: rho 15,
//! guided from 30 to 70 % of the steps, and time travel where it is asked for, as in
//! [`FreeDom`](super::FreeDom). In a latent model the autoencoder is the projector onto the manifold.

use super::vocabulary::{Conclusion, Drift, Guidance, Method, Potential, Shift};

/// The predicted clean latent is moved along the reward's gradient at it, by `rho` times the size of what
/// classifier-free guidance adds to the noise. The UNet is not differentiated.
#[derive(Clone, Copy, Debug)]
pub struct Mpgd;

impl Method for Mpgd {
    fn name(&self) -> &'static str {
        "mpgd"
    }
    fn about(&self) -> &'static str {
        "clean latents moved along the gradient, which stops before the UNet; without weights"
    }
    fn potential(&self) -> Potential {
        Potential::None
    }
    fn drift(&self) -> Drift {
        Drift::Shift(Shift::Clean)
    }
    fn guidance(&self) -> Guidance {
        Guidance { strength: 15.0, window: (0.3, 0.7), passes: 1, travel: (0.3, 0.6) }
    }
    fn conclusion(&self) -> Conclusion {
        Conclusion::Keep
    }
}

//! FreeDoM: training-free energy-guided conditional diffusion models (Yu, Wang, Zhao, Ghanem, Zhang, ICCV
//! 2023; docs/spec.md 10.1), with the energy `-r`, as its program does it for Stable Diffusion: rho 0.2,
//! guided from 30 to 70 % of the steps, and time travel, three passes through each step from 30 to 60 %.

use super::vocabulary::{Conclusion, Drift, Guidance, Method, Potential, Shift};

/// Each step of the model's chain, shifted along the reward's gradient with respect to the state, by `rho`
/// times the size of what classifier-free guidance adds to the noise; some steps are taken several times,
/// with new noise between.
#[derive(Clone, Copy, Debug)]
pub struct FreeDom;

impl Method for FreeDom {
    fn name(&self) -> &'static str {
        "freedom"
    }
    fn about(&self) -> &'static str {
        "steps shifted by the gradient, some of them several times; without weights"
    }
    fn potential(&self) -> Potential {
        Potential::None
    }
    fn drift(&self) -> Drift {
        Drift::Shift(Shift::Relative)
    }
    fn guidance(&self) -> Guidance {
        Guidance { strength: 0.2, window: (0.3, 0.7), passes: 3, travel: (0.3, 0.6) }
    }
    fn conclusion(&self) -> Conclusion {
        Conclusion::Keep
    }
}

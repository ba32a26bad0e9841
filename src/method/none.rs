//! The model's own samples.

use super::vocabulary::{Conclusion, Drift, Method, Potential};

/// Plain chains of equal weight; the reward is only reported.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Method for Plain {
    fn name(&self) -> &'static str {
        "none"
    }
    fn about(&self) -> &'static str {
        "the model's own samples"
    }
    fn potential(&self) -> Potential {
        Potential::None
    }
    fn drift(&self) -> Drift {
        Drift::None
    }
    fn conclusion(&self) -> Conclusion {
        Conclusion::Keep
    }
}

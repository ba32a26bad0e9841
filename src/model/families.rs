//! The families of models that can be run: one file each, one line in [`FAMILIES`] each. A family knows its
//! pipeline's components, what the pipeline changes in their configurations on loading, and how prompts
//! become conditions.

mod family;
mod latent_consistency;
mod stable_diffusion;
mod stable_diffusion_xl;

pub use family::Family;

/// All families.
pub static FAMILIES: &[&Family] =
    &[&stable_diffusion::FAMILY, &stable_diffusion_xl::FAMILY, &latent_consistency::FAMILY];

//! Methods: what a way of aligning samples needs from the target, how it moves and weighs particles, and what
//! it makes of the final rewards.
//!
//! [`Method`] is open: anybody can write one and hand it to the sampler, which knows no method by name. The
//! words a method answers with ([`Potential`], [`Drift`], [`Conclusion`], [`Need`]) are closed, because a
//! device has to understand them. A method that ships with the program is a file here and a line in
//! [`METHODS`].

mod best_of_n;
mod bootstrap;
mod das;
mod dps;
mod fk;
mod freedom;
mod mpgd;
mod none;
mod svdd;
mod tds;
mod vocabulary;

pub use best_of_n::{BestOfN, at_equal_cost as best_of_n_at_equal_cost};
pub use bootstrap::Bootstrap;
pub use das::Das;
pub use dps::Dps;
pub use fk::Fk;
pub use freedom::FreeDom;
pub use mpgd::Mpgd;
pub use none::Plain;
pub use svdd::Svdd;
pub use tds::Tds;
pub use vocabulary::{Circumstances, Conclusion, Drift, Guidance, Method, Need, Potential, Shift, StepIndex};

use crate::error::{Error, Result};

/// The methods that ship with the program, in the order in which help lists them. The first is the default.
pub static METHODS: &[&dyn Method] =
    &[&Das, &Tds, &Bootstrap, &Fk, &Svdd, &Dps, &FreeDom, &Mpgd, &Plain, &BestOfN];

/// The method of [`METHODS`] with this name or alias.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) with the list of names.
pub fn find(name: &str) -> Result<&'static dyn Method> {
    let called = |m: &&&dyn Method| m.name() == name || m.aliases().contains(&name);
    METHODS.iter().find(called).copied().ok_or_else(|| {
        let names: Vec<&str> = METHODS.iter().map(|m| m.name()).collect();
        Error::usage(format!("unknown method \"{name}\""))
            .option("method")
            .advice(format!("`method` takes one of: {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for &method in METHODS {
            assert_eq!(find(method.name()).unwrap(), method);
        }
        assert_eq!(find("twisted").unwrap().name(), "das");
        let error = find("dpps").unwrap_err().to_string();
        assert!(error.contains("dpps") && error.contains("best-of-n"), "{error}");
    }

    #[test]
    fn names_and_aliases_are_all_different() {
        let mut names: Vec<&str> = METHODS
            .iter()
            .flat_map(|m| std::iter::once(m.name()).chain(m.aliases().iter().copied()))
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_reward_without_gradient_is_refused_where_one_is_followed() {
        for &method in METHODS {
            let rules = method.rules(10);
            let run = Circumstances {
                without_gradient: None,
                without_correction: None,
                noisy: true,
                rules: &rules,
            };
            let gradient = method.differentiates();
            let refused = method.check_all(&Circumstances { without_gradient: Some("jpeg"), ..run });
            assert_eq!(refused.is_err(), gradient, "{method}");
            if let Err(error) = refused {
                let text = error.to_string();
                assert!(text.contains("jpeg") && text.contains("`method` bootstrap"), "{text}");
            }
            assert!(method.check_all(&run).is_ok());
            let still = Circumstances { noisy: false, ..run };
            assert_eq!(method.check_all(&still).is_err(), method.needs_noise(), "{method}");
        }
    }
}

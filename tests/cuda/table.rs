//! The table that every backend is held against.

use crate::cases::{self, Case};
use crate::parity;

/// DAS_OPS=conv,linear keeps those operations only, while working on them.
fn table() -> Vec<Case> {
    let wanted = std::env::var("DAS_OPS").unwrap_or_default();
    let keep = |c: &Case| wanted.is_empty() || wanted.split(',').any(|op| op == c.op.name());
    cases::small().into_iter().filter(keep).collect()
}

fn every_case_of_the_table_agrees_with_the_cpu() {
    parity::check(&table());
}

crate::tests![every_case_of_the_table_agrees_with_the_cpu,];

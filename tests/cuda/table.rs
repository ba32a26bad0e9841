//! The table that every backend is held against.

use crate::{cases, parity};

fn every_case_of_the_table_agrees_with_the_cpu() {
    parity::check(&cases::chosen());
}

crate::tests![every_case_of_the_table_agrees_with_the_cpu,];

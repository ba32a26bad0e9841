//! Pure Sequential Monte Carlo arithmetic.

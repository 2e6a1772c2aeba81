//! One file an architecture, one row each in `registry`.

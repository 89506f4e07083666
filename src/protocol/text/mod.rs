//! The classic text dialect.

pub mod parse;

pub use parse::cut;

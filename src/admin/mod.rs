//! The HTTP listener for operators: metrics, health, and answers to what they
//! would ask.
//!
//! A listener of its own: nothing on the data port can change or stop the proxy,
//! and a flood there does not keep an operator out.

pub mod cache;
pub mod config;
pub mod http;
pub mod metrics;
pub mod page;
pub mod reloads;
pub mod route;
pub mod servers;
pub mod state;
pub mod store;

pub use state::State;

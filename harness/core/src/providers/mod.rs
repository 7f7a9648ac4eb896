//! Providers: the ways to get a cluster.

#[cfg(target_os = "linux")]
mod testbed;

#[cfg(target_os = "linux")]
pub use testbed::TestbedProvider;

//! Providers: the ways to get a cluster.

mod kubeconfig;
pub(crate) mod ranges;
#[cfg(target_os = "linux")]
mod testbed;

pub use kubeconfig::KubeconfigProvider;
#[cfg(target_os = "linux")]
pub use stickler_testbed::{bugs, components, examination};
#[cfg(target_os = "linux")]
pub use testbed::TestbedProvider;

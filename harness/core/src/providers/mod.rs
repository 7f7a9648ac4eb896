//! Providers: the ways to get a cluster.

mod container;
mod k3s;
mod kind;
mod kubeconfig;
mod own;
pub(crate) mod ranges;
#[cfg(target_os = "linux")]
mod testbed;
pub(crate) mod tether;

pub use container::ContainerProvider;
pub use k3s::K3sProvider;
pub use kind::KindProvider;
pub use kubeconfig::KubeconfigProvider;
#[cfg(target_os = "linux")]
pub use stickler_testbed::{bugs, components, examination};
#[cfg(target_os = "linux")]
pub use testbed::{TestbedProvider, bugs_named};

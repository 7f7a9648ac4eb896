//! Providers: the ways to get a cluster.

#[cfg(target_os = "linux")]
mod binaries;
mod container;
mod k3s;
mod kind;
mod kubeconfig;
mod own;
pub(crate) mod ranges;
#[cfg(target_os = "linux")]
mod testbed;
pub(crate) mod tether;

#[cfg(target_os = "linux")]
pub use binaries::BinariesProvider;
pub use container::ContainerProvider;
pub use k3s::K3sProvider;
pub use kind::KindProvider;
pub use kubeconfig::KubeconfigProvider;
#[cfg(target_os = "linux")]
pub use stickler_testbed::binaries::{PAUSE_IMAGE, ProxyMode};
#[cfg(target_os = "linux")]
pub use stickler_testbed::{Images, bugs, components, examination};
#[cfg(target_os = "linux")]
pub use testbed::{TestbedProvider, bugs_named};

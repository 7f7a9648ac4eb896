//! The embedded cluster: a Kubernetes small enough to start in a fraction of a second inside one
//! process, and real enough that unmodified clients, and the kernel's own packet path, cannot tell.
//!
//! Topology (network namespaces, links, routes) and components (API server, controllers, scheduler,
//! kubelets, proxies) are separate things; every component talks to the API server only.

mod apiserver;
pub mod binaries;
pub mod bugs;
mod cgroup;
mod client;
pub mod components;
mod controllers;
pub mod enter;
pub mod examination;
pub mod external;
mod externals;
pub mod ingress;
mod kernel;
pub mod kubelet;
mod load_balancer;
pub mod namespace;
mod outside_world;
mod pki;
pub mod proxy;
mod relay;
mod scheduler;
mod testbed;
pub mod topology;

pub use externals::ExternalCard;
pub use kubelet::shared_objects;
pub use testbed::{Images, Machine, OutsideProcess, StartError, Step, Testbed, TestbedSpec, reexec};

//! The embedded cluster: a Kubernetes small enough to start in a fraction of a second inside one
//! process, and real enough that unmodified clients, and the kernel's own packet path, cannot tell.
//!
//! Topology (network namespaces, links, routes) and components (API server, controllers, scheduler,
//! kubelets, proxies) are separate things; every component talks to the API server only.

mod apiserver;
pub mod bugs;
mod client;
#[cfg_attr(not(test), expect(dead_code, reason = "started once the testbed puts its parts together"))]
mod controllers;
pub mod namespace;
mod pki;
#[cfg_attr(not(test), expect(dead_code, reason = "started once the testbed puts its parts together"))]
mod scheduler;

//! Clusters, vantages, checks and histories: the conformance and chaos harness for Kubernetes
//! Services.
//!
//! One way through the house, for data: *provider → [`Cluster`] → check → [`Vantage`] → outcome →
//! model says allowed or not → verdict → report*.

pub mod action;
mod agent;
mod bounds;
mod calls;
pub mod chaos;
mod check;
pub mod chronicle;
mod claim;
pub mod clients;
mod clock;
mod cluster;
mod controller;
mod destination;
pub mod engine;
mod evidence;
pub mod explore;
mod guard;
pub mod history;
mod image;
mod ingress;
pub mod interrupt;
mod invariant;
mod journal;
mod leash;
pub mod manifest;
mod measure;
mod names;
pub mod providers;
pub mod rights;
mod runner;
mod scene;
mod stay;
pub mod truth;
mod vantage;
mod wait;

pub use agent::{Agent, ClockOffset};
pub use bounds::Bounds;
pub use calls::{http, http_with_host, in_words, udp};
pub use check::{Broken, Check, Class, Held, Source, Verdict, dns_specification, docs, kep, notes, rfc};
pub use claim::{Healed, heal};
pub use cluster::{AgentStream, Capability, Cluster, Disruption, Loss, Machine, Outside, Provider, Terminal};
pub use controller::{Controller, ExistingController};
pub use destination::{To, cluster_ip, load_balancer, node_port};
pub use ingress::{RoutedAsPromised, routed_as_promised};
pub use invariant::{
    Invariant, Judgement, answers, as_promised, endpoints_mirror_pods, spreads, spreads_at, sticks, that,
};
pub use journal::Sink;
pub use names::{ResolveAsPromised, resolve_as_promised};
pub use runner::{Ending, Kept, Run, Session};
pub use scene::{ExecOutput, Scene};
pub use stickler_pods::versions::served;
pub use stickler_pods::{APPLETS, VERSION as PODS_VERSION, protocol};
pub use vantage::{Vantage, Vantages};

/// Runs the part of the program that was asked for under another name: what runs in pods of the
/// testbed is the running executable itself. To be called first in every `main` that may start a
/// testbed; if it returns something, that is how the process ends.
pub fn reexec() -> Option<std::process::ExitCode> {
    #[cfg(target_os = "linux")]
    return stickler_testbed::reexec().or_else(leash::main).or_else(providers::tether::main);
    #[cfg(not(target_os = "linux"))]
    return stickler_pods::dispatch().or_else(leash::main);
}

//! The promises of Kubernetes Services, one check each, one file per chapter. A suite names no
//! provider and no component: it must not know what it talks to.

mod affinity;
mod allocation;
mod confirmation;
mod conformance;
mod deviations;
mod dns;
mod endpoint_slices;
mod endpoints;
mod env;
mod exec;
mod external_ips;
mod external_name;
mod goweb;
mod headless;
mod host_port;
mod ingress;
mod kubectl;
mod liveness;
mod load_balancer;
mod node_port;
mod ports;
mod profile;
mod readiness;
mod service;
mod service_type;
mod table;
mod traffic_policy;
mod udp;
mod vip;

use std::process::ExitCode;

use stickler::Check;

pub use confirmation::confirmed_by;
pub use conformance::Conformance;
pub use deviations::{known_deviations, known_differences};
pub use profile::Profile;
pub use table::table_world;

/// The notes at a terminal, chapter by chapter.
pub mod transcript {
    pub use crate::kubectl::{Chapter, NAMESPACE, chapters, kubectl_minor, perform};
}

/// Runs the part of the program that was asked for under another name: the programs of pods, and the
/// editor that a kubectl of the transcript opens. To be called first in every `main` that may perform
/// checks; if it returns something, that is how the process ends.
pub fn reexec() -> Option<ExitCode> {
    kubectl::editor().or_else(stickler::reexec)
}

/// Every chapter: the prefix of its checks' ids, and the checks.
pub const CHAPTERS: &[(&str, &[Check])] = &[
    ("goweb", goweb::CHECKS),
    ("service", service::CHECKS),
    ("exec", exec::CHECKS),
    ("udp", udp::CHECKS),
    ("affinity", affinity::CHECKS),
    ("ports", ports::CHECKS),
    ("env", env::CHECKS),
    ("dns", dns::CHECKS),
    ("vip", vip::CHECKS),
    ("endpoints", endpoints::CHECKS),
    ("endpoint-slices", endpoint_slices::CHECKS),
    ("node-port", node_port::CHECKS),
    ("host-port", host_port::CHECKS),
    ("allocation", allocation::CHECKS),
    ("service-type", service_type::CHECKS),
    ("readiness", readiness::CHECKS),
    ("liveness", liveness::CHECKS),
    ("headless", headless::CHECKS),
    ("external-name", external_name::CHECKS),
    ("load-balancer", load_balancer::CHECKS),
    ("traffic-policy", traffic_policy::CHECKS),
    ("external-ips", external_ips::CHECKS),
    ("ingress", ingress::CHECKS),
    ("kubectl", kubectl::CHECKS),
];

/// Every check, chapter by chapter.
pub fn all() -> impl Iterator<Item = &'static Check> {
    CHAPTERS.iter().flat_map(|(_, checks)| *checks)
}

/// What can be wrong with the catalogue itself, each with what to do about it; none if all is well.
pub fn mistakes_in_the_catalogue() -> Vec<String> {
    let mut mistakes = confirmation::mistakes();
    let mut ids = std::collections::BTreeSet::new();
    for (chapter, checks) in CHAPTERS {
        if profile::of_chapter(chapter).is_none() {
            mistakes.push(format!("chapter `{chapter}` has no profile; add it in suites/src/profile.rs"));
        }
        for check in *checks {
            if check.chapter() != *chapter {
                mistakes.push(format!(
                    "check `{}` stands in chapter `{chapter}`; move it or rename it",
                    check.id
                ));
            }
            if !ids.insert(check.id) {
                mistakes.push(format!("the id `{}` is used twice; rename one", check.id));
            }
            if check.promised_by.is_empty() {
                mistakes.push(format!("check `{}` cites nothing; add to `promised_by`", check.id));
            }
        }
    }
    mistakes
}

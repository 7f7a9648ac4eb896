//! Profiles: the checks that concern one component, for those who build only that.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context as _, bail};
use globset::Glob;
use stickler::Check;

/// A selection of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// Everything about Services: what clients see of them, whoever makes it so.
    Service,
    /// What the rules of a service proxy decide.
    Proxy,
    /// What cluster DNS answers.
    Dns,
    /// What an ingress controller does.
    Ingress,
    /// What stands in Endpoints and EndpointSlices.
    Endpoints,
    /// What a kubelet does to pods and their containers.
    Kubelet,
    /// Every check.
    Full,
}

impl Profile {
    /// Every profile.
    pub const ALL: &'static [Self] =
        &[Self::Service, Self::Proxy, Self::Dns, Self::Ingress, Self::Endpoints, Self::Kubelet, Self::Full];

    /// The name `--profile` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Proxy => "proxy",
            Self::Dns => "dns",
            Self::Ingress => "ingress",
            Self::Endpoints => "endpoints",
            Self::Kubelet => "kubelet",
            Self::Full => "full",
        }
    }

    /// Does a check belong to it?
    pub fn has(self, check: &Check) -> bool {
        self == Self::Full || of_chapter(check.chapter()).is_some_and(|profiles| profiles.contains(&self))
    }

    /// The profiles of a check, `full` always among them.
    pub fn of(check: &Check) -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|profile| profile.has(check))
    }

    /// Its checks that any of these globs finds, each once; all of them if there is no glob.
    ///
    /// # Errors
    /// If something is no glob, or finds nothing.
    pub fn select(self, filters: &[impl AsRef<str>]) -> anyhow::Result<Vec<&'static Check>> {
        let of_profile = || crate::all().filter(|check| self.has(check));
        if filters.is_empty() {
            return Ok(of_profile().collect());
        }
        let mut selected = Vec::new();
        for filter in filters.iter().map(AsRef::as_ref) {
            let glob = Glob::new(filter).with_context(|| format!("`{filter}` is no glob"))?.compile_matcher();
            let before = selected.len();
            selected.extend(of_profile().filter(|check| glob.is_match(check.id)));
            if selected.len() == before {
                bail!("no check of the profile `{self}` matches `{filter}`; `stickler list` names them all");
            }
        }
        let mut seen = BTreeSet::new();
        selected.retain(|check| seen.insert(check.id));
        Ok(selected)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The profiles of a chapter's checks; none if nobody said.
pub(crate) fn of_chapter(chapter: &str) -> Option<&'static [Profile]> {
    use Profile::{Dns, Endpoints, Ingress, Kubelet, Proxy, Service};
    Some(match chapter {
        "goweb" | "exec" | "liveness" | "host-port" | "kubectl" => &[Kubelet],
        "allocation" => &[Service],
        "env" => &[Service, Kubelet],
        "readiness" => &[Service, Proxy, Endpoints, Kubelet],
        "service" | "affinity" | "vip" | "node-port" | "load-balancer" | "traffic-policy"
        | "external-ips" | "service-type" | "udp" => &[Service, Proxy],
        "ports" => &[Service, Proxy, Endpoints],
        "endpoints" => &[Service, Endpoints],
        "endpoint-slices" => &[Service, Proxy, Endpoints],
        "dns" | "external-name" => &[Service, Dns],
        "headless" => &[Service, Dns, Endpoints],
        "ingress" => &[Ingress],
        _ => return None,
    })
}

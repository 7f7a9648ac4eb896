//! What is held against a cluster: its Kubernetes version, features and address ranges.

use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;

/// The promises a cluster is held to. Fields may be changed for a cluster whose feature gates
/// or flags differ from its version's defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Promises {
    /// The minor version: 37 for Kubernetes 1.37.
    pub minor: u32,
    /// The range cluster IPs come from. Where it is not known, an address that no service has
    /// may belong to anybody.
    pub service_cidr: Option<IpNet>,
    /// The range pod addresses come from.
    pub cluster_cidr: Option<IpNet>,
    /// The range node ports come from, the API server's `--service-node-port-range`.
    pub node_port_range: RangeInclusive<u16>,
    /// The domain of the cluster's names, the kubelets' `--cluster-domain`, in lower case and
    /// without a dot at its end.
    pub cluster_domain: String,
    /// EndpointSlices say `serving` and `terminating`, and keep a terminating endpoint
    /// (KEP-1672: on by default since 1.22, stable in 1.26).
    pub terminating_conditions: bool,
    /// A proxy without ready endpoints falls back to serving, terminating ones
    /// (KEP-1669: on by default since 1.26, stable in 1.28).
    pub terminating_fallback: bool,
    /// `internalTrafficPolicy` is obeyed (KEP-2086: on by default since 1.22, stable in 1.26).
    pub internal_traffic_policy: bool,
}

impl Promises {
    /// The oldest minor version the model knows.
    pub const OLDEST: u32 = 20;

    /// The promises of Kubernetes 1.`minor` with default feature gates. A version newer than the
    /// model is held to the newest rules known.
    pub fn of_minor(minor: u32) -> Self {
        Self {
            minor,
            service_cidr: None,
            cluster_cidr: None,
            node_port_range: 30000..=32767,
            cluster_domain: "cluster.local".to_owned(),
            terminating_conditions: minor >= 22,
            terminating_fallback: minor >= 26,
            internal_traffic_policy: minor >= 22,
        }
    }

    /// The promises of a version as an API server names it: `v1.37.0`, `v1.20.2+k3s1`, `1.27+`.
    pub fn of_version(version: &str) -> Result<Self, VersionError> {
        let unreadable = || VersionError::Unreadable(version.to_owned());
        let mut parts = version.trim().trim_start_matches('v').split('.');
        let major = parts.next().and_then(|major| u32::from_str(major).ok()).ok_or_else(unreadable)?;
        let minor = parts.next().ok_or_else(unreadable)?;
        let (digits, rest) = minor.split_at(minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len()));
        if !(rest.is_empty() || rest.starts_with(['+', '-'])) {
            return Err(unreadable());
        }
        let minor = u32::from_str(digits).map_err(|_| unreadable())?;
        if major != 1 || minor < Self::OLDEST {
            return Err(VersionError::Unknown(version.to_owned()));
        }
        Ok(Self::of_minor(minor))
    }

    #[must_use]
    pub fn with_service_cidr(self, cidr: IpNet) -> Self {
        Self { service_cidr: Some(cidr), ..self }
    }

    #[must_use]
    pub fn with_cluster_cidr(self, cidr: IpNet) -> Self {
        Self { cluster_cidr: Some(cidr), ..self }
    }
}

/// Why a version has no promises.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    #[error("`{0}` is not a Kubernetes version; one looks like `v1.37.0`")]
    Unreadable(String),
    #[error("the model does not know the promises of Kubernetes `{0}`; it starts with 1.20")]
    Unknown(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions_as_servers_write_them() {
        for (version, minor) in
            [("v1.37.0", 37), ("v1.20.2+k3s1", 20), ("1.27+", 27), ("v1.36.0-alpha.1", 36), ("1.38", 38)]
        {
            assert_eq!(Promises::of_version(version).unwrap().minor, minor, "{version}");
        }
        for version in ["", "v1", "1.x", "1.3x", "latest"] {
            assert_eq!(Promises::of_version(version), Err(VersionError::Unreadable(version.to_owned())));
        }
        for version in ["v1.19.0", "v2.0.0"] {
            assert_eq!(Promises::of_version(version), Err(VersionError::Unknown(version.to_owned())));
        }
    }

    #[test]
    fn features_come_with_their_version() {
        let of = Promises::of_minor;
        assert!(!of(21).terminating_conditions && of(22).terminating_conditions);
        assert!(!of(25).terminating_fallback && of(26).terminating_fallback);
        assert!(!of(21).internal_traffic_policy && of(22).internal_traffic_policy);
    }
}

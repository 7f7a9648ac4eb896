//! Differences: how what an exploration saw differs from what was promised, told exactly enough to be
//! known again.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How calls of an address differ from what is promised there. It says nothing of which service, pod or
/// node it was, nor of how the world came to be: that is drawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    pub at: Place,
    pub protocol: Transport,
    #[serde(default)]
    pub flow: Flow,
    #[serde(default)]
    pub slices: Slices,
    pub promised: Promised,
    pub seen: Saw,
    /// Who promised it: the title of what the report cites. In a known difference it may be missing,
    /// which means whoever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    ClusterIp,
    ExternalIp,
    LoadBalancer,
    NodePort,
    /// A pod's own address.
    Pod,
}

/// How it was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    Tcp,
    Udp,
    Sctp,
}

/// Whether anybody on the way may know the flow of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flow {
    /// Each call is from a port of its own.
    #[default]
    New,
    /// Datagrams from the port that the looks before used too.
    Known,
}

/// What is peculiar about the EndpointSlices of the service that was called, as they are in the API: it changes
/// nothing of what is promised, but what an implementation makes of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Slices {
    /// Nothing that is known to matter.
    #[default]
    Plain,
    /// One has the label `service.kubernetes.io/headless` though the service has a cluster IP.
    LabelledHeadless,
}

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Promised {
    /// Somebody answers.
    Answered,
    /// Somebody may answer, and nobody else.
    AtMost,
    Refused,
    Dropped,
    /// Nobody answers, in whichever way.
    Nobody,
}

/// What was seen instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Saw {
    /// Answered by somebody who must not.
    Answered,
    /// Answered by somebody who may, and who saw another source than the caller's.
    OtherSource,
    /// Answered by several, one after the other, where one is to answer each time.
    Several,
    Refused,
    Reset,
    Silent,
    Unreachable,
}

impl Difference {
    /// Is what was seen what this one, of a file of known deviations, says?
    pub fn covers(&self, seen: &Self) -> bool {
        let by = self.by.clone().or_else(|| seen.by.clone());
        *seen == Self { by: by.clone(), ..self.clone() }
    }
}

/// As one of `explore` in a file of known deviations.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{ at = {}, protocol = {}", quoted(&self.at)?, quoted(&self.protocol)?)?;
        if self.flow != Flow::New {
            write!(f, ", flow = {}", quoted(&self.flow)?)?;
        }
        if self.slices != Slices::Plain {
            write!(f, ", slices = {}", quoted(&self.slices)?)?;
        }
        write!(f, ", promised = {}, seen = {}", quoted(&self.promised)?, quoted(&self.seen)?)?;
        if let Some(by) = &self.by {
            write!(f, ", by = {}", quoted(by)?)?;
        }
        f.write_str(" }")
    }
}

/// A string, which is written in TOML as it is in JSON.
fn quoted(value: &impl Serialize) -> Result<String, fmt::Error> {
    serde_json::to_string(value).map_err(|_| fmt::Error)
}

/// A deviation that explorations are expected to see on an implementation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownDifference {
    /// The differences it shows in: each of them, and no other.
    pub explore: Vec<Difference>,
    /// What the implementation does instead, in one sentence.
    pub reason: String,
    /// Where that can be read: an issue, a line of its source, its documentation.
    pub source: String,
}

impl KnownDifference {
    /// Is what was seen one of its differences?
    pub fn covers(&self, seen: &Difference) -> bool {
        self.explore.iter().any(|known| known.covers(seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent() -> Difference {
        Difference {
            at: Place::NodePort,
            protocol: Transport::Udp,
            flow: Flow::Known,
            slices: Slices::Plain,
            promised: Promised::Answered,
            seen: Saw::Silent,
            by: Some("Service, \"type: NodePort\"".to_owned()),
        }
    }

    #[test]
    fn a_known_difference_covers_what_is_the_same_in_every_field() {
        let seen = silent();
        assert!(seen.covers(&seen));
        let by_anybody = Difference { by: None, ..silent() };
        assert!(by_anybody.covers(&seen) && !seen.covers(&by_anybody));
        let known = |explore: &[Difference]| KnownDifference {
            explore: explore.to_vec(),
            reason: String::new(),
            source: String::new(),
        };
        let pod = Difference { at: Place::Pod, ..silent() };
        assert!(known(&[pod.clone(), silent()]).covers(&seen) && !known(&[pod]).covers(&seen));
        for other in [
            Difference { at: Place::ClusterIp, ..silent() },
            Difference { protocol: Transport::Tcp, ..silent() },
            Difference { flow: Flow::New, ..silent() },
            Difference { slices: Slices::LabelledHeadless, ..silent() },
            Difference { promised: Promised::AtMost, ..silent() },
            Difference { seen: Saw::Refused, ..silent() },
            Difference { by: Some("Service".to_owned()), ..silent() },
        ] {
            assert!(!other.covers(&seen), "{other}");
            let by_anybody = Difference { by: None, ..other.clone() };
            assert_eq!(by_anybody.covers(&seen), other.by != silent().by, "{other}");
        }
    }

    #[test]
    fn it_is_told_as_it_is_written_in_a_file() {
        assert_eq!(
            silent().to_string(),
            "{ at = \"node-port\", protocol = \"UDP\", flow = \"known\", promised = \"answered\", seen = \"silent\", by \
             = \"Service, \\\"type: NodePort\\\"\" }"
        );
        let plain = Difference { flow: Flow::New, by: None, ..silent() }.to_string();
        assert!(plain.starts_with("{ at = \"node-port\", protocol = \"UDP\", promised = "), "{plain}");
        assert!(plain.ends_with("seen = \"silent\" }"), "{plain}");
        let labelled = Difference { slices: Slices::LabelledHeadless, ..silent() }.to_string();
        assert!(labelled.contains(", slices = \"labelled-headless\", promised = "), "{labelled}");
    }
}

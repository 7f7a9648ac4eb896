//! What a check is: one promise, as data beside a function.

use std::fmt;

use futures::future::BoxFuture;
use stickler_reports::{CheckCard, Finding};

pub use stickler_reports::{Class, Verdict};

use crate::Scene;
use crate::cluster::Capability;

/// One promise and the function that holds a cluster to it.
pub struct Check {
    /// `<chapter>/<promise>`; the chapter is the name of the file it stands in.
    pub id: &'static str,
    /// One line, in the words of the field.
    pub title: &'static str,
    pub class: Class,
    /// Who promised it, or, for an observation, where it was seen.
    pub promised_by: &'static [Source],
    /// What the cluster must be able to do; if it cannot, the check is skipped with the reason.
    pub needs: &'static [Capability],
    /// It touches something of which the cluster has only one, such as a fixed node port: no other
    /// check runs meanwhile.
    pub exclusive: bool,
    pub run: for<'a> fn(&'a mut Scene) -> BoxFuture<'a, Held>,
}

impl Check {
    /// The part of the id before the slash.
    pub fn chapter(&self) -> &'static str {
        self.id.split('/').next().unwrap_or(self.id)
    }

    /// The check as reports show it.
    pub fn card(&self) -> CheckCard {
        CheckCard { id: self.id.to_owned(), title: self.title.to_owned(), class: self.class }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A page and a heading of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    base: &'static str,
    page: &'static str,
}

impl Source {
    /// Where it can be read.
    pub fn url(&self) -> String {
        format!("{}{}", self.base, self.page)
    }
}

/// A page of the Kubernetes documentation: the path after `https://kubernetes.io/docs/`, with the
/// heading's anchor.
pub const fn docs(page: &'static str) -> Source {
    Source { base: "https://kubernetes.io/docs/", page }
}

/// A Kubernetes enhancement proposal: its path below `keps/` in the enhancements repository.
pub const fn kep(path: &'static str) -> Source {
    Source { base: "https://github.com/kubernetes/enhancements/tree/master/keps/", page: path }
}

/// The specification of DNS-based service discovery: a heading's anchor.
pub const fn dns_specification(heading: &'static str) -> Source {
    Source { base: "https://github.com/kubernetes/dns/blob/master/docs/specification.md#", page: heading }
}

/// A document of the RFC series: its number, with the section's anchor.
pub const fn rfc(page: &'static str) -> Source {
    Source { base: "https://www.rfc-editor.org/rfc/", page }
}

/// The study notes this project started from.
pub const fn notes(heading: &'static str) -> Source {
    Source { base: "notes: ", page: heading }
}

/// How a check ends: `Ok` if what was promised was seen.
pub type Held = Result<(), Broken>;

/// Why a check did not pass.
#[derive(Debug)]
pub enum Broken {
    /// A promise was broken.
    Promise(Box<Finding>),
    /// It could not be told: something the check relies on went wrong.
    CouldNotTell(String),
}

impl Broken {
    /// A broken promise.
    pub fn promise(promised: impl Into<String>, observed: impl Into<String>) -> Self {
        Self::Promise(Box::new(Finding { promised: promised.into(), observed: observed.into() }))
    }
}

/// Whatever else goes wrong inside a check means that it could not tell.
impl<E: Into<anyhow::Error>> From<E> for Broken {
    fn from(error: E) -> Self {
        let error = error.into();
        let unheard = |cause: &(dyn std::error::Error + 'static)| {
            matches!(
                cause.downcast_ref::<kube::Error>(),
                Some(kube::Error::Service(_) | kube::Error::HyperError(_))
            )
        };
        if error.chain().any(unheard) {
            return Self::CouldNotTell(format!("the API server cannot be reached: {error:#}"));
        }
        Self::CouldNotTell(format!("{error:#}"))
    }
}

//! Replies: what a client got from DNS, and the records that were promised.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::dns::normal;

/// What a client got for one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A response with its answer section.
    Answered { code: Code, records: BTreeSet<Record> },
    /// No response within the client's bound.
    Silent,
}

/// The response code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    NoError,
    NxDomain,
    ServFail,
    Refused,
    Other(u16),
}

/// One record of an answer section. Times to live are not promised, nor are the priority and
/// weight of an SRV record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    Address(IpAddr),
    Srv { port: u16, target: String },
    Alias(String),
    Pointer(String),
    Text(String),
}

impl Record {
    /// With names in lower case and without the dot at their end.
    pub(crate) fn normal(&self) -> Self {
        match self {
            Self::Srv { port, target } => Self::Srv { port: *port, target: normal(target) },
            Self::Alias(target) => Self::Alias(normal(target)),
            Self::Pointer(target) => Self::Pointer(normal(target)),
            Self::Address(_) | Self::Text(_) => self.clone(),
        }
    }
}

/// A record that is promised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promised {
    Address(IpAddr),
    /// One of these ports.
    Srv {
        ports: BTreeSet<u16>,
        target: Target,
    },
    Pointer(Target),
}

/// A name in a promised record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Named(String),
    /// Some label, made up by the system, below this name.
    Under(String),
}

impl Target {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Named(own) => own == name,
            Self::Under(parent) => name.split_once('.').is_some_and(|(_, rest)| rest == parent),
        }
    }
}

impl Promised {
    fn matches(&self, record: &Record) -> bool {
        match (self, record) {
            (Self::Address(own), Record::Address(seen)) => own == seen,
            (Self::Srv { ports, target }, Record::Srv { port, target: seen }) => {
                ports.contains(port) && target.matches(seen)
            }
            (Self::Pointer(target), Record::Pointer(seen)) => target.matches(seen),
            _ => false,
        }
    }

    /// Whether a record, as it was written, is this one.
    pub(crate) fn is(&self, record: &Record) -> bool {
        self.matches(&record.normal())
    }

    fn is_made_up(&self) -> bool {
        matches!(self, Self::Srv { target: Target::Under(_), .. } | Self::Pointer(Target::Under(_)))
    }
}

impl Reply {
    /// The records, none if there was no response.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        let records = match self {
            Self::Answered { records, .. } => Some(records),
            Self::Silent => None,
        };
        records.into_iter().flatten()
    }

    /// No such name, or no such record.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Answered { code: Code::NoError | Code::NxDomain, records } if records.is_empty())
    }

    /// The name exists, the record does not.
    pub fn is_no_data(&self) -> bool {
        matches!(self, Self::Answered { code: Code::NoError, records } if records.is_empty())
    }

    /// How the records differ from what must and what may be there.
    pub(crate) fn differs(&self, exactly: &[Promised], perhaps: &[Promised]) -> Option<String> {
        let Self::Answered { code: Code::NoError, .. } = self else {
            let all: Vec<String> = exactly.iter().map(Promised::to_string).collect();
            return Some(match all.is_empty() {
                true => "an answer was promised".to_owned(),
                false => format!("promised are {}", all.join(", ")),
            });
        };
        let mut open: Vec<Record> = self.records().map(Record::normal).collect();
        let mut missing = Vec::new();
        // Names the system makes up match many records: they take what the others leave.
        let (made_up, named): (Vec<&Promised>, _) =
            exactly.iter().partition(|promised| promised.is_made_up());
        for promised in named.into_iter().chain(made_up) {
            match open.iter().position(|record| promised.matches(record)) {
                Some(index) => drop(open.remove(index)),
                None => missing.push(promised.to_string()),
            }
        }
        open.retain(|record| !perhaps.iter().any(|promised| promised.matches(record)));
        let surplus: Vec<String> = open.iter().map(Record::to_string).collect();
        match (missing.is_empty(), surplus.is_empty()) {
            (true, true) => None,
            (false, true) => Some(format!("missing: {}", missing.join(", "))),
            (true, false) => Some(format!("not promised: {}", surplus.join(", "))),
            (false, false) => {
                Some(format!("missing: {}; not promised: {}", missing.join(", "), surplus.join(", ")))
            }
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("got no answer"),
            Self::Answered { code: Code::NoError, records } if records.is_empty() => {
                f.write_str("got an empty answer")
            }
            Self::Answered { code, records } => {
                let all: Vec<String> = records.iter().map(Record::to_string).collect();
                match (code, all.is_empty()) {
                    (Code::NoError, _) => write!(f, "was answered {}", all.join(", ")),
                    (_, true) => write!(f, "was answered {code}"),
                    (_, false) => write!(f, "was answered {code} with {}", all.join(", ")),
                }
            }
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoError => f.write_str("NOERROR"),
            Self::NxDomain => f.write_str("NXDOMAIN"),
            Self::ServFail => f.write_str("SERVFAIL"),
            Self::Refused => f.write_str("REFUSED"),
            Self::Other(code) => write!(f, "code {code}"),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "`{address}`"),
            Self::Srv { port, target } => write!(f, "port {port} of `{target}`"),
            Self::Alias(target) => write!(f, "CNAME `{target}`"),
            Self::Pointer(target) => write!(f, "`{target}`"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

impl fmt::Display for Promised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "`{address}`"),
            Self::Srv { ports, target } => {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                write!(f, "port {} of {target}", ports.join(" or "))
            }
            Self::Pointer(target) => target.fmt(f),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "`{name}`"),
            Self::Under(parent) => write!(f, "`*.{parent}`"),
        }
    }
}

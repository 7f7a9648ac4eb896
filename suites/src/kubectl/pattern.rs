//! Patterns: text with places for names, ages and addresses that differ from cluster to cluster.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context as _, bail};

/// What a place may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The end of a generated pod name.
    Pod,
    /// The part of a Deployment's pod names that stands for their template.
    Hash,
    PodIp,
    ServiceIp,
    /// A machine's address on the LAN.
    LanIp,
    NodePort,
    Node,
    Age,
    Version,
    Number,
    /// What is the machine's and not the cluster's.
    Text,
}

impl Kind {
    const ALL: &[(&str, Self)] = &[
        ("pod", Self::Pod),
        ("hash", Self::Hash),
        ("pod-ip", Self::PodIp),
        ("service-ip", Self::ServiceIp),
        ("lan-ip", Self::LanIp),
        ("node-port", Self::NodePort),
        ("node", Self::Node),
        ("age", Self::Age),
        ("version", Self::Version),
        ("number", Self::Number),
        ("text", Self::Text),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    fn fits(self, text: &str) -> bool {
        // Generated names use no letter and digit that make words or are mistaken for another.
        let generated = || text.chars().all(|c| "bcdfghjklmnpqrstvwxz2456789".contains(c));
        match self {
            Self::Pod => text.len() == 5 && generated(),
            Self::Hash => (1..=10).contains(&text.len()) && generated(),
            Self::PodIp => text.parse().is_ok_and(|ip: Ipv4Addr| ip.octets()[..2] == [10, 244]),
            Self::ServiceIp => {
                text.parse().is_ok_and(|ip: Ipv4Addr| ip.octets()[0] == 10 && ip.octets()[1] & 0xf0 == 96)
            }
            Self::LanIp => text.parse().is_ok_and(|ip: Ipv4Addr| ip.octets()[..3] == [192, 168, 199]),
            Self::NodePort => {
                !text.starts_with('+') && text.parse().is_ok_and(|port| (30000..=32767).contains(&port))
            }
            Self::Node => {
                text.strip_prefix("kube").and_then(|rest| rest.strip_suffix(".vm")).is_some_and(digits)
            }
            Self::Age => age(text),
            Self::Version => text.strip_prefix('v').is_some_and(|rest| rest.split('.').count() >= 3),
            Self::Number => digits(text),
            Self::Text => !text.is_empty(),
        }
    }
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// As kubectl writes it: `9s`, `2m5s`, `3d15h`.
fn age(text: &str) -> bool {
    let parts: Vec<&str> = text.split_inclusive(['s', 'm', 'h', 'd', 'y']).collect();
    let number_and_unit = |part: &&str| part.len() >= 2 && digits(&part[..part.len() - 1]);
    text.is_ascii()
        && (1..=2).contains(&parts.len())
        && parts.iter().all(number_and_unit)
        && text.ends_with(['s', 'm', 'h', 'd', 'y'])
}

/// What is known of the variables. A variable keeps its value, and no two variables of one kind
/// have the same.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Bindings(BTreeMap<(Kind, String), String>);

impl Bindings {
    /// Says what a variable stands for, one after the other.
    pub(crate) fn in_words(&self) -> String {
        let each = |((kind, name), value): (&(Kind, String), &String)| {
            format!("<{}:{name}> is {value}", kind.name())
        };
        self.0.iter().map(each).collect::<Vec<_>>().join(", ")
    }

    fn bind(&self, kind: Kind, name: &str, value: &str) -> Option<Self> {
        let key = (kind, name.to_owned());
        if let Some(known) = self.0.get(&key) {
            return (known == value).then(|| self.clone());
        }
        if self.0.iter().any(|((other, _), known)| *other == kind && known == value) {
            return None;
        }
        let mut bound = self.clone();
        bound.0.insert(key, value.to_owned());
        Some(bound)
    }
}

/// A text with places in it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pattern(Vec<Piece>);

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Literal(String),
    /// Without a name, any value will do; with several, the value of any of them.
    Place {
        kind: Kind,
        names: Vec<String>,
    },
}

impl Pattern {
    /// `<pod:a>` is a place with a name, `<age>` one without, `<pod:a|b>` one for either value;
    /// what kubectl writes between such brackets itself (`<none>`) is text.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(start) = rest.find('<') {
            let (before, from) = rest.split_at(start);
            literal.push_str(before);
            let Some(end) = from.find('>') else { break };
            let (inside, after) = (&from[1..end], &from[end + 1..]);
            let (kind, names) =
                inside.split_once(':').map_or((inside, None), |(kind, names)| (kind, Some(names)));
            match (Kind::named(kind), names) {
                (Some(kind), names) => {
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    let names =
                        names.map_or_else(Vec::new, |names| names.split('|').map(str::to_owned).collect());
                    pieces.push(Piece::Place { kind, names });
                }
                (None, Some(_)) => bail!("`<{inside}>` is of no known kind"),
                (None, None) => literal.push_str(&from[..=end]),
            }
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }

    /// Every way the text can be what the pattern says.
    pub(crate) fn ways(&self, text: &str, known: &Bindings) -> Vec<Bindings> {
        ways(&self.0, text, known)
    }

    pub(crate) fn has_places(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Place { .. }))
    }

    /// The text, with the variables' values in their places.
    pub(crate) fn fill(&self, known: &Bindings) -> anyhow::Result<String> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Place { kind, names } => {
                    let [name] = names.as_slice() else {
                        bail!("a command needs one value in each place, not `<{}>`", kind.name());
                    };
                    let value = known.0.get(&(*kind, name.clone()));
                    text.push_str(
                        value.with_context(|| format!("nothing was `<{}:{name}>` before", kind.name()))?,
                    );
                }
            }
        }
        Ok(text)
    }
}

fn ways(pieces: &[Piece], text: &str, known: &Bindings) -> Vec<Bindings> {
    match pieces {
        [] if text.is_empty() => vec![known.clone()],
        [] => Vec::new(),
        [Piece::Literal(literal), others @ ..] => {
            text.strip_prefix(literal.as_str()).map_or_else(Vec::new, |rest| ways(others, rest, known))
        }
        [Piece::Place { kind, names }, others @ ..] => {
            let mut found = Vec::new();
            for end in (1..=text.len()).rev().filter(|end| text.is_char_boundary(*end)) {
                let (value, rest) = text.split_at(end);
                if !kind.fits(value) {
                    continue;
                }
                let bound = match names.as_slice() {
                    [] => Some(known.clone()),
                    [name] => known.bind(*kind, name, value),
                    several => {
                        let is = |name: &String| {
                            known.0.get(&(*kind, name.clone())).is_some_and(|known| known == value)
                        };
                        several.iter().any(is).then(|| known.clone())
                    }
                };
                found.extend(bound.iter().flat_map(|bound| ways(others, rest, bound)));
            }
            found
        }
    }
}

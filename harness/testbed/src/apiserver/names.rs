//! What names, labels and ports may look like
//! ([Object Names and IDs](https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#names)).

use rand::Rng as _;

/// Which rule a kind's names follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameRule {
    Subdomain,
    Label,
    Dns1035,
    /// Anything that can stand in a path.
    Segment,
}

impl NameRule {
    /// What is wrong with the name, in upstream's words; nothing if nothing is.
    pub(crate) fn problems(self, name: &str) -> Vec<String> {
        match self {
            Self::Subdomain => subdomain(name),
            Self::Label => label(name),
            Self::Dns1035 => dns1035(name),
            Self::Segment => segment(name),
        }
    }
}

pub(crate) fn subdomain(name: &str) -> Vec<String> {
    let mut problems = too_long(name, 253);
    if !name.split('.').all(|part| is_label(part, false)) {
        problems.push(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
             and must start and end with an alphanumeric character (e.g. 'example.com', regex used for \
             validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        );
    }
    problems
}

/// What is wrong with a host that stands for all below one domain.
pub(crate) fn wildcard(host: &str) -> Vec<String> {
    let mut problems = too_long(host, 253);
    let rest = host.strip_prefix("*.");
    if !rest.is_some_and(|rest| rest.split('.').all(|part| is_label(part, false))) {
        problems.push(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must \
             consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character \
             (e.g. '*.example.com', regex used for validation is \
             '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        );
    }
    problems
}

/// What is wrong with a name such as `example.com/controller`; an empty one is for the caller to judge.
pub(crate) fn domain_prefixed(path: &str) -> Vec<String> {
    if path.is_empty() {
        return Vec::new();
    }
    let Some((domain, rest)) =
        path.split_once('/').filter(|(domain, rest)| !domain.is_empty() && !rest.is_empty())
    else {
        return vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()];
    };
    let mut problems = subdomain(domain);
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    if !rest.bytes().all(fine) {
        problems.push(
            "a valid path must consist of characters that may stand in the path of a URL (e.g. 'acme.io/foo')"
                .to_owned(),
        );
    }
    problems
}

pub(crate) fn label(name: &str) -> Vec<String> {
    let mut problems = too_long(name, 63);
    if !is_label(name, false) {
        problems.push(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
             start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
             validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
                .to_owned(),
        );
    }
    problems
}

pub(crate) fn dns1035(name: &str) -> Vec<String> {
    let mut problems = too_long(name, 63);
    if !is_label(name, true) {
        problems.push(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
             alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', \
             regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
                .to_owned(),
        );
    }
    problems
}

pub(crate) fn segment(name: &str) -> Vec<String> {
    if [".", ".."].contains(&name) {
        return vec![format!("may not be '{name}'")];
    }
    let forbidden = ["/", "%"].into_iter().filter(|part| name.contains(part));
    forbidden.map(|part| format!("may not contain '{part}'")).collect()
}

/// What is wrong with the name of a port that a target port refers to.
pub(crate) fn port_name(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > 15 {
        problems.push("must be no more than 15 characters".to_owned());
    }
    if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

pub(crate) fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

/// What is wrong with a label's or annotation's key.
pub(crate) fn qualified(key: &str) -> Vec<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let mut problems = Vec::new();
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            problems.push("prefix part must be non-empty".to_owned());
        }
        problems.extend(subdomain(prefix).into_iter().map(|problem| format!("prefix part {problem}")));
    }
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    }
    problems.extend(too_long(name, 63).into_iter().map(|problem| format!("name part {problem}")));
    if !is_qualified_name(name) {
        problems.push(
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
             an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
             validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
                .to_owned(),
        );
    }
    problems
}

pub(crate) fn label_value(value: &str) -> Vec<String> {
    let mut problems = too_long(value, 63);
    if !value.is_empty() && !is_qualified_name(value) {
        problems.push(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
             must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
             regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
                .to_owned(),
        );
    }
    problems
}

/// A name made from a prefix and five characters, of which none can form a word.
pub(crate) fn generate(prefix: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut name: String = prefix.chars().take(58).collect();
    let mut random = rand::rng();
    name.extend((0..5).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])));
    name
}

/// A random (version 4) UUID.
pub(crate) fn uid() -> String {
    let mut bytes: [u8; 16] = rand::rng().random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let number = u128::from_be_bytes(bytes);
    let hex = format!("{number:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn too_long(name: &str, limit: usize) -> Vec<String> {
    if name.len() > limit { vec![format!("must be no more than {limit} bytes")] } else { Vec::new() }
}

fn is_label(name: &str, starts_with_letter: bool) -> bool {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.first().is_some_and(|&first| fine(first) && !(starts_with_letter && first.is_ascii_digit()))
        && bytes.last().is_some_and(|&last| fine(last))
        && bytes.iter().all(|&byte| fine(byte) || byte == b'-')
}

fn is_qualified_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rule() {
        for (rule, name, fine) in [
            (NameRule::Subdomain, "a.b-c.1", true),
            (NameRule::Subdomain, "A", false),
            (NameRule::Subdomain, "a..b", false),
            (NameRule::Label, "1a", true),
            (NameRule::Label, "a.b", false),
            (NameRule::Dns1035, "1a", false),
            (NameRule::Dns1035, "a1", true),
            (NameRule::Dns1035, "a-", false),
            (NameRule::Dns1035, "", false),
            (NameRule::Segment, "system:node", true),
            (NameRule::Segment, "a/b", false),
        ] {
            assert_eq!(rule.problems(name).is_empty(), fine, "{rule:?} {name}");
        }
        assert!(!NameRule::Label.problems(&"a".repeat(64)).is_empty());
    }

    #[test]
    fn generated_names_are_short_and_fine() {
        let name = generate(&"a".repeat(70));
        assert_eq!(name.len(), 63);
        assert!(label(&name).is_empty(), "{name}");
        assert_eq!(uid().len(), 36);
        assert_ne!(uid(), uid());
    }
}

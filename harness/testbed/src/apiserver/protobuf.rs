//! As much of Kubernetes' protobuf encoding as kubectl's own `create` and `auth` insist on
//! ([API concepts, "Kubernetes Protobuf encoding"](https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding)).
//! Whatever is not known here is refused rather than dropped.

use serde_json::{Map, Value, json};

/// What such a body begins with.
const MAGIC: &[u8] = b"k8s\0";

type Fields = &'static [(u64, &'static str, Kind)];

/// What a field holds.
enum Kind {
    Text,
    Texts,
    Number,
    /// From text to text.
    Map,
    Message(Fields),
    Messages(Fields),
}

const RULES: Kind = Kind::Messages(&[
    (1, "verbs", Kind::Texts),
    (2, "apiGroups", Kind::Texts),
    (3, "resources", Kind::Texts),
    (4, "resourceNames", Kind::Texts),
    (5, "nonResourceURLs", Kind::Texts),
]);

const BINDING: Fields = &[
    (1, "metadata", METADATA),
    (
        2,
        "subjects",
        Kind::Messages(&[
            (1, "kind", Kind::Text),
            (2, "apiGroup", Kind::Text),
            (3, "name", Kind::Text),
            (4, "namespace", Kind::Text),
        ]),
    ),
    (
        3,
        "roleRef",
        Kind::Message(&[(1, "apiGroup", Kind::Text), (2, "kind", Kind::Text), (3, "name", Kind::Text)]),
    ),
];

const METADATA: Kind = Kind::Message(&[
    (1, "name", Kind::Text),
    (2, "generateName", Kind::Text),
    (3, "namespace", Kind::Text),
    (11, "labels", Kind::Map),
    (12, "annotations", Kind::Map),
]);

/// The kinds that can be read.
const KINDS: &[(&str, Fields)] = &[
    ("SelfSubjectReview", &[(1, "metadata", METADATA)]),
    (
        "SelfSubjectAccessReview",
        &[
            (1, "metadata", METADATA),
            (
                2,
                "spec",
                Kind::Message(&[
                    (
                        1,
                        "resourceAttributes",
                        Kind::Message(&[
                            (1, "namespace", Kind::Text),
                            (2, "verb", Kind::Text),
                            (3, "group", Kind::Text),
                            (4, "version", Kind::Text),
                            (5, "resource", Kind::Text),
                            (6, "subresource", Kind::Text),
                            (7, "name", Kind::Text),
                        ]),
                    ),
                    (
                        2,
                        "nonResourceAttributes",
                        Kind::Message(&[(1, "path", Kind::Text), (2, "verb", Kind::Text)]),
                    ),
                ]),
            ),
        ],
    ),
    (
        "SelfSubjectRulesReview",
        &[(1, "metadata", METADATA), (2, "spec", Kind::Message(&[(1, "namespace", Kind::Text)]))],
    ),
    ("Role", &[(1, "metadata", METADATA), (2, "rules", RULES)]),
    (
        "ClusterRole",
        &[
            (1, "metadata", METADATA),
            (2, "rules", RULES),
            (
                3,
                "aggregationRule",
                Kind::Message(&[(
                    1,
                    "clusterRoleSelectors",
                    Kind::Messages(&[(1, "matchLabels", Kind::Map)]),
                )]),
            ),
        ],
    ),
    ("RoleBinding", BINDING),
    ("ClusterRoleBinding", BINDING),
    ("Namespace", &[(1, "metadata", METADATA)]),
    ("ServiceAccount", &[(1, "metadata", METADATA)]),
    ("ConfigMap", &[(1, "metadata", METADATA), (2, "data", Kind::Map)]),
    (
        "TokenRequest",
        &[
            (1, "metadata", METADATA),
            (
                2,
                "spec",
                Kind::Message(&[
                    (1, "audiences", Kind::Texts),
                    (
                        3,
                        "boundObjectRef",
                        Kind::Message(&[
                            (1, "kind", Kind::Text),
                            (2, "apiVersion", Kind::Text),
                            (3, "name", Kind::Text),
                            (4, "uid", Kind::Text),
                        ]),
                    ),
                    (4, "expirationSeconds", Kind::Number),
                ]),
            ),
        ],
    ),
];

/// Reads an object; nothing if it is of another kind, or has fields that are not known here.
pub(crate) fn read_object(body: &[u8]) -> Option<Value> {
    let mut rest = body.strip_prefix(MAGIC)?;
    let (mut names, mut object) = (json!({}), &[][..]);
    while !rest.is_empty() {
        match next(&mut rest)? {
            (1, Content::Bytes(content)) => {
                names = read(content, &[(1, "apiVersion", Kind::Text), (2, "kind", Kind::Text)])?;
            }
            (2, Content::Bytes(content)) => object = content,
            _ => {}
        }
    }
    let kind = names["kind"].as_str()?;
    let (_, fields) = KINDS.iter().find(|(known, _)| *known == kind)?;
    let mut object = read(object, fields)?;
    object["apiVersion"] = names["apiVersion"].clone();
    object["kind"] = names["kind"].clone();
    Some(object)
}

fn read(mut message: &[u8], fields: &'static [(u64, &'static str, Kind)]) -> Option<Value> {
    let mut object = Map::new();
    while !message.is_empty() {
        let (number, content) = next(&mut message)?;
        let field = fields.iter().find(|(known, ..)| *known == number);
        let Some((_, name, kind)) = field else {
            if content.is_blank() {
                continue;
            }
            return None;
        };
        match (kind, content) {
            (Kind::Text, Content::Bytes(content)) => {
                let text = std::str::from_utf8(content).ok()?;
                if !text.is_empty() {
                    object.insert((*name).to_owned(), json!(text));
                }
            }
            (Kind::Texts, Content::Bytes(content)) => {
                let text = std::str::from_utf8(content).ok()?;
                object.entry(*name).or_insert_with(|| json!([])).as_array_mut()?.push(json!(text));
            }
            (Kind::Number, Content::Number(number)) => {
                object.insert((*name).to_owned(), json!(i64::try_from(number).ok()?));
            }
            (Kind::Map, Content::Bytes(content)) => {
                let entry = read(content, &[(1, "key", Kind::Text), (2, "value", Kind::Text)])?;
                let map = object.entry(*name).or_insert_with(|| json!({})).as_object_mut()?;
                let key = entry.get("key").and_then(Value::as_str).unwrap_or_default();
                map.insert(key.to_owned(), entry.get("value").cloned().unwrap_or_else(|| json!("")));
            }
            (Kind::Message(fields), Content::Bytes(content)) => {
                object.insert((*name).to_owned(), read(content, fields)?);
            }
            (Kind::Messages(fields), Content::Bytes(content)) => {
                let message = read(content, fields)?;
                object.entry(*name).or_insert_with(|| json!([])).as_array_mut()?.push(message);
            }
            _ => return None,
        }
    }
    Some(Value::Object(object))
}

enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Content<'_> {
    /// Encoders write empty fields too: those say nothing.
    fn is_blank(&self) -> bool {
        match self {
            Content::Number(number) => *number == 0,
            Content::Bytes(content) => {
                let mut rest = *content;
                while !rest.is_empty() {
                    match next(&mut rest) {
                        Some((_, content)) if content.is_blank() => {}
                        _ => return false,
                    }
                }
                true
            }
        }
    }
}

/// Splits off the next field.
fn next<'a>(message: &mut &'a [u8]) -> Option<(u64, Content<'a>)> {
    let key = varint(message)?;
    let content = match key & 7 {
        0 => Content::Number(varint(message)?),
        2 => {
            let length = usize::try_from(varint(message)?).ok()?;
            let (content, rest) = message.split_at_checked(length)?;
            *message = rest;
            Content::Bytes(content)
        }
        _ => return None,
    };
    Some((key >> 3, content))
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field that holds bytes.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    fn body(kind: &str, object: &[u8]) -> Vec<u8> {
        let names = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &names), field(2, object)].concat()
    }

    #[test]
    fn objects_are_read_and_what_is_not_known_is_refused() {
        let label = field(11, &[field(1, b"k"), field(2, b"v")].concat());
        let metadata = field(1, &[field(1, b"a"), label].concat());
        let blank = field(3, &field(1, b""));
        assert_eq!(
            read_object(&body("Namespace", &[metadata.clone(), blank].concat())),
            Some(
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": {"k": "v"}}})
            )
        );
        let more = field(2, &field(1, b"finalizer"));
        assert_eq!(read_object(&body("Namespace", &[metadata.clone(), more].concat())), None);
        assert_eq!(read_object(&body("Pod", &metadata)), None);
        assert_eq!(read_object(b"k8s\0\x12\xff"), None);
        assert_eq!(read_object(b"{}"), None);
    }
}

//! As much of Kubernetes' protobuf encoding as kubectl insists on: reviews of what one may do
//! ([API concepts, "Kubernetes Protobuf encoding"](https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding)).

use serde_json::{Map, Value, json};

/// What such a body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// A message within a message, or a text, by the number of its field.
enum Field {
    Text(&'static str),
    Message(&'static str, &'static [(u64, Field)]),
}

/// `SelfSubjectReview`, which is empty, and `SelfSubjectAccessReview`.
const REVIEW: &[(u64, Field)] = &[(
    2,
    Field::Message(
        "spec",
        &[
            (
                1,
                Field::Message(
                    "resourceAttributes",
                    &[
                        (1, Field::Text("namespace")),
                        (2, Field::Text("verb")),
                        (3, Field::Text("group")),
                        (4, Field::Text("version")),
                        (5, Field::Text("resource")),
                        (6, Field::Text("subresource")),
                        (7, Field::Text("name")),
                    ],
                ),
            ),
            (
                2,
                Field::Message(
                    "nonResourceAttributes",
                    &[(1, Field::Text("path")), (2, Field::Text("verb"))],
                ),
            ),
        ],
    ),
)];

/// Reads a review of one's own rights; nothing if the body is none.
pub(crate) fn read_review(body: &[u8]) -> Option<Value> {
    // The envelope's second field is the object itself.
    let mut rest = body.strip_prefix(MAGIC)?;
    let mut object: &[u8] = &[];
    while !rest.is_empty() {
        let (number, content) = next(&mut rest)?;
        if number == 2 {
            object = content;
        }
    }
    read(object, REVIEW)
}

fn read(mut message: &[u8], fields: &[(u64, Field)]) -> Option<Value> {
    let mut object = Map::new();
    while !message.is_empty() {
        let (number, content) = next(&mut message)?;
        match fields.iter().find(|(known, _)| *known == number).map(|(_, field)| field) {
            Some(Field::Text(name)) => {
                object.insert((*name).to_owned(), json!(std::str::from_utf8(content).ok()?));
            }
            Some(Field::Message(name, fields)) => {
                object.insert((*name).to_owned(), read(content, fields)?);
            }
            None => {}
        }
    }
    Some(Value::Object(object))
}

/// Splits off the next field; plain numbers read as empty.
fn next<'a>(message: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    let key = varint(message)?;
    let content = match key & 7 {
        0 => {
            varint(message)?;
            &[]
        }
        2 => {
            let length = usize::try_from(varint(message)?).ok()?;
            let (content, rest) = message.split_at_checked(length)?;
            *message = rest;
            content
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

    #[test]
    fn reviews_are_read_and_nonsense_is_not() {
        let attributes = b"\x0a\x01n\x12\x03get\x2a\x04pods";
        let mut body = MAGIC.to_vec();
        body.extend([0x12, 4 + 14, 0x12, 2 + 14, 0x0a, 14]);
        body.extend(attributes);
        let review = read_review(&body).unwrap();
        assert_eq!(
            review,
            json!({"spec": {"resourceAttributes": {"namespace": "n", "verb": "get", "resource": "pods"}}})
        );
        assert_eq!(read_review(b"k8s\0\x12\xff"), None);
        assert_eq!(read_review(b"{}"), None);
    }
}

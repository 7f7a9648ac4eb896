//! Kubernetes' protobuf encoding, as far as clients send it: kubectl's own `create` and many clients
//! written in Go do
//! ([API concepts, "Kubernetes Protobuf encoding"](https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding)).
//! Whatever is not known here is refused rather than dropped.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::status::{Result, Status};

/// What such a body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// No known message is nested deeper.
const DEPTH: usize = 32;

/// Every message: its fields by number.
static MESSAGES: LazyLock<BTreeMap<&'static str, BTreeMap<u64, Field>>> =
    LazyLock::new(|| messages(include_str!("protobuf_messages.txt")));

/// One field of a message.
#[derive(Clone, Copy, Debug)]
struct Field {
    /// Empty for a message whose fields stand in JSON among those of the one around it.
    name: &'static str,
    holds: Type,
    many: Many,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Many {
    /// Not there when it is zero.
    One,
    /// There or not, whatever its value.
    Optional,
    List,
    /// From text.
    Map,
}

#[derive(Clone, Copy, Debug)]
enum Type {
    Text,
    Number,
    Truth,
    Bytes,
    Time,
    MicroTime,
    /// JSON inside of a message.
    Json,
    NumberOrText,
    Quantity,
    /// A message that is nothing but a list of texts.
    Texts,
    Message(&'static str),
}

fn messages(text: &'static str) -> BTreeMap<&'static str, BTreeMap<u64, Field>> {
    let read = |line: &'static str| {
        let (name, fields) = line.split_once(' ').unwrap_or((line, ""));
        let fields = fields.split_whitespace().filter_map(|field| {
            let mut parts = field.splitn(3, ':');
            let (number, name, holds) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
            let between = |from: char, to: char| holds.strip_prefix(from)?.strip_suffix(to);
            let (many, holds) = if let Some(holds) = between('[', ']') {
                (Many::List, holds)
            } else if let Some(holds) = between('{', '}') {
                (Many::Map, holds)
            } else if let Some(holds) = holds.strip_suffix('?') {
                (Many::Optional, holds)
            } else {
                (Many::One, holds)
            };
            let holds = match holds {
                "string" => Type::Text,
                "int" => Type::Number,
                "bool" => Type::Truth,
                "bytes" => Type::Bytes,
                "time" => Type::Time,
                "microtime" => Type::MicroTime,
                "json" => Type::Json,
                "intorstring" => Type::NumberOrText,
                "quantity" => Type::Quantity,
                "items" => Type::Texts,
                message => Type::Message(message),
            };
            Some((number, Field { name, holds, many }))
        });
        (name, fields.collect())
    };
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(read).collect()
}

/// Reads an object with its kind and version.
pub(crate) fn read_object(body: &[u8]) -> Result<Value> {
    let broken = |what: &str| Status::bad_request(format!("the body of the request is no protobuf: {what}"));
    let mut rest = body.strip_prefix(MAGIC).ok_or_else(|| broken("it does not begin as one"))?;
    let (mut version, mut kind, mut object) = ("", "", &[][..]);
    while !rest.is_empty() {
        match next(&mut rest).ok_or_else(|| broken("it is cut off"))? {
            (1, Content::Bytes(mut names)) => {
                while !names.is_empty() {
                    let text =
                        |content| std::str::from_utf8(content).map_err(|_| broken("a name is no text"));
                    match next(&mut names).ok_or_else(|| broken("it is cut off"))? {
                        (1, Content::Bytes(content)) => version = text(content)?,
                        (2, Content::Bytes(content)) => kind = text(content)?,
                        _ => {}
                    }
                }
            }
            (2, Content::Bytes(content)) => object = content,
            _ => {}
        }
    }
    let package = match version.split_once('/') {
        _ if kind == "DeleteOptions" => "meta.v1".to_owned(),
        None => format!("core.{version}"),
        Some((group, version)) => format!("{}.{version}", group.split('.').next().unwrap_or_default()),
    };
    let message = format!("{package}.{kind}");
    let Some((message, _)) = MESSAGES.get_key_value(message.as_str()) else {
        return Err(Status::unsupported_media_type(format!(
            "{kind:?} in version {version:?} cannot be read in protobuf here - accepted media types include: \
             application/json, application/yaml"
        )));
    };
    let mut read = read(object, message, 0).map_err(|what| broken(&what))?;
    read.insert("apiVersion".to_owned(), json!(version));
    read.insert("kind".to_owned(), json!(kind));
    Ok(Value::Object(read))
}

type Read<T> = std::result::Result<T, String>;

fn read(mut content: &[u8], message: &'static str, depth: usize) -> Read<Map<String, Value>> {
    let fields = MESSAGES.get(message).ok_or_else(|| format!("{message} is not known"))?;
    if depth > DEPTH {
        return Err(format!("{message} is nested too deeply"));
    }
    let mut object = Map::new();
    while !content.is_empty() {
        let (number, content) = next(&mut content).ok_or_else(|| format!("{message} is cut off"))?;
        let Some(field) = fields.get(&number) else {
            if content.is_blank(DEPTH) {
                continue;
            }
            return Err(format!("field {number} of {message} is not known"));
        };
        let wrong = || format!("`{}` of {message} has the wrong type", field.name);
        match (field.many, content) {
            (Many::Map, Content::Bytes(mut entry)) => {
                let (mut key, mut value) = ("", Value::Null);
                while !entry.is_empty() {
                    match next(&mut entry).ok_or_else(wrong)? {
                        (1, Content::Bytes(content)) => {
                            key = std::str::from_utf8(content).map_err(|_| wrong())?;
                        }
                        (2, content) => value = read_value(field.holds, content, depth)?.ok_or_else(wrong)?,
                        _ => return Err(wrong()),
                    }
                }
                if value.is_null() {
                    value = json!("");
                }
                let map = object.entry(field.name).or_insert_with(|| json!({}));
                map.as_object_mut().ok_or_else(wrong)?.insert(key.to_owned(), value);
            }
            (Many::Map, Content::Number(_)) => return Err(wrong()),
            (many, content) => {
                let value = read_value(field.holds, content, depth)?.ok_or_else(wrong)?;
                match value {
                    Value::Object(inner) if field.name.is_empty() => object.extend(inner),
                    value if many == Many::List => {
                        let list = object.entry(field.name).or_insert_with(|| json!([]));
                        list.as_array_mut().ok_or_else(wrong)?.push(value);
                    }
                    Value::Null => {}
                    value if many == Many::One && is_zero(&value) => {}
                    value => {
                        object.insert(field.name.to_owned(), value);
                    }
                }
            }
        }
    }
    Ok(object)
}

/// The value of a field, nothing if the content is not of its type.
fn read_value(holds: Type, content: Content<'_>, depth: usize) -> Read<Option<Value>> {
    let content = match (holds, content) {
        // Negative numbers are written as their two's complement.
        (Type::Number, Content::Number(number)) => return Ok(Some(json!(number.cast_signed()))),
        (Type::Truth, Content::Number(number)) => return Ok(Some(json!(number != 0))),
        (Type::Number | Type::Truth, Content::Bytes(_)) | (_, Content::Number(_)) => return Ok(None),
        (_, Content::Bytes(content)) => content,
    };
    Ok(match holds {
        Type::Text => std::str::from_utf8(content).ok().map(|text| json!(text)),
        Type::Bytes => Some(json!(STANDARD.encode(content))),
        Type::Message(message) => Some(Value::Object(read(content, message, depth + 1)?)),
        Type::Time | Type::MicroTime => time(content, matches!(holds, Type::MicroTime)),
        Type::Json => first(content, 1).map(|content| serde_json::from_slice(content).unwrap_or_default()),
        Type::Quantity => first(content, 1).and_then(|text| Some(json!(std::str::from_utf8(text).ok()?))),
        Type::NumberOrText => number_or_text(content),
        Type::Texts => {
            let mut rest = content;
            let mut texts = Vec::new();
            while !rest.is_empty() {
                let Some((1, Content::Bytes(text))) = next(&mut rest) else { return Ok(None) };
                let Ok(text) = std::str::from_utf8(text) else { return Ok(None) };
                texts.push(json!(text));
            }
            Some(Value::Array(texts))
        }
        Type::Number | Type::Truth => None,
    })
}

/// The bytes of one field of a small message; a field that is not there is empty.
fn first(mut message: &[u8], wanted: u64) -> Option<&[u8]> {
    while !message.is_empty() {
        match next(&mut message)? {
            (number, Content::Bytes(content)) if number == wanted => return Some(content),
            _ => {}
        }
    }
    Some(&[])
}

fn time(mut message: &[u8], precise: bool) -> Option<Value> {
    if message.is_empty() {
        return Some(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    while !message.is_empty() {
        match next(&mut message)? {
            (1, Content::Number(number)) => seconds = number.cast_signed(),
            (2, Content::Number(number)) => nanos = i32::try_from(number).ok()?,
            _ => return None,
        }
    }
    let time = jiff::Timestamp::new(seconds, nanos).ok()?;
    let form = if precise { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Some(json!(time.strftime(form).to_string()))
}

fn number_or_text(mut message: &[u8]) -> Option<Value> {
    let (mut is_text, mut number, mut text) = (false, 0_i64, "");
    while !message.is_empty() {
        match next(&mut message)? {
            (1, Content::Number(kind)) => is_text = kind == 1,
            (2, Content::Number(value)) => number = value.cast_signed(),
            (3, Content::Bytes(content)) => text = std::str::from_utf8(content).ok()?,
            _ => return None,
        }
    }
    Some(if is_text { json!(text) } else { json!(number) })
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Content<'_> {
    /// Encoders write empty fields too: those say nothing.
    fn is_blank(&self, depth: usize) -> bool {
        match self {
            Content::Number(number) => *number == 0,
            Content::Bytes(content) => {
                let mut rest = *content;
                let Some(depth) = depth.checked_sub(1) else { return rest.is_empty() };
                while !rest.is_empty() {
                    match next(&mut rest) {
                        Some((_, content)) if content.is_blank(depth) => {}
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
            read_object(&body("Namespace", &[metadata.clone(), blank].concat())).unwrap(),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": {"k": "v"}}})
        );
        let unknown = field(15, b"text");
        assert_eq!(
            read_object(&body("Namespace", &[metadata.clone(), unknown].concat())).unwrap_err().code,
            400
        );
        assert_eq!(read_object(&body("Nonsense", &metadata)).unwrap_err().code, 415);
        assert_eq!(read_object(b"k8s\0\x12\xff").unwrap_err().code, 400);
        assert_eq!(read_object(b"{}").unwrap_err().code, 400);
    }

    #[test]
    fn every_type_of_field_is_read() {
        // A port: 80, to the port named `web`, node port 0, which means none.
        let port =
            [&[0x18, 80][..], &field(4, &[&[0x08, 1][..], &field(3, b"web")].concat()), &[0x28, 0]].concat();
        let spec = [field(1, &port), field(2, &[field(1, b"k"), field(2, b"v")].concat())].concat();
        assert_eq!(
            read_object(&body("Service", &field(2, &spec))).unwrap()["spec"],
            json!({"ports": [{"port": 80, "targetPort": "web"}], "selector": {"k": "v"}})
        );
        let secret = field(2, &[field(1, b"k"), field(2, b"\xff\x00")].concat());
        assert_eq!(read_object(&body("Secret", &secret)).unwrap()["data"], json!({"k": "/wA="}));
        // Zero replicas are not the same as none said, and a handler has no name of its own.
        let zero = read_object(&body("ReplicationController", &field(2, &[0x08, 0]))).unwrap();
        assert_eq!(zero["spec"], json!({"replicas": 0}));
        let probe = field(10, &field(1, &field(3, &field(2, b"h"))));
        let pod = read_object(&body("Pod", &field(2, &field(2, &probe)))).unwrap();
        let probe = &pod["spec"]["containers"][0]["livenessProbe"];
        assert_eq!(*probe, json!({"tcpSocket": {"host": "h"}}));
        let time = field(1, &field(8, &[0x08, 60, 0x10, 0]));
        let object = read_object(&body("ConfigMap", &time)).unwrap();
        assert_eq!(object["metadata"]["creationTimestamp"], "1970-01-01T00:01:00Z");
    }

    #[test]
    fn all_types_of_all_fields_are_known() {
        for (message, fields) in MESSAGES.iter() {
            for field in fields.values() {
                if let Type::Message(inner) = field.holds {
                    assert!(MESSAGES.contains_key(inner), "{message} holds {inner}");
                }
            }
        }
        assert!(MESSAGES.len() > 250, "{}", MESSAGES.len());
    }
}

//! A token as jwt_authn leaves it: JSON → the bytes of `google.protobuf.Value`, for `header_to_metadata`.

use base64::Engine as _;
use serde_json::Value;

/// For a header of the type PROTOBUF_VALUE in BASE64.
pub fn header(value: &Value) -> String {
    base64::engine::general_purpose::STANDARD.encode(encode(value))
}

/// <https://protobuf.dev/reference/protobuf/google.protobuf/#value>
fn encode(value: &Value) -> Vec<u8> {
    match value {
        Value::Null => vec![0x08, 0],
        Value::Number(number) => {
            let mut bytes = vec![0x11];
            bytes.extend(number.as_f64().unwrap_or_default().to_le_bytes());
            bytes
        }
        Value::String(text) => field(0x1a, text.as_bytes()),
        Value::Bool(flag) => vec![0x20, u8::from(*flag)],
        Value::Object(entries) => {
            let entry = |(name, value): (&String, &Value)| {
                field(0x0a, &[field(0x0a, name.as_bytes()), field(0x12, &encode(value))].concat())
            };
            field(0x2a, &entries.iter().flat_map(entry).collect::<Vec<u8>>())
        }
        Value::Array(items) => {
            field(0x32, &items.iter().flat_map(|item| field(0x0a, &encode(item))).collect::<Vec<u8>>())
        }
    }
}

fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(content);
    bytes
}

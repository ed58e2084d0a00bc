//! What is inserted, written in the style of the place: block YAML, or flow (which is JSON) on one line or several.

use serde::Serialize as _;
use serde_json::Value;

/// How flow text is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `{"a":1,"b":2}`, as in a minified file.
    Compact,
    /// `{"a": 1, "b": 2}`.
    OneLine,
    /// One entry a line; every line but the first begins with `indent`, and each level adds `unit`.
    Lines { indent: String, unit: String, newline: &'static str },
}

/// The lines of a block sequence that holds these values: `- name: x`, `  typed_config:` and so on, without indentation
/// of their own. The serializer quotes what other readers of YAML would not take for a string.
pub fn block_items(values: &[Value]) -> Option<Vec<String>> {
    lines(&Value::Array(values.to_vec()))
}

/// The lines of one block mapping entry.
pub fn block_entry(key: &str, value: &Value) -> Option<Vec<String>> {
    let mut entry = serde_json::Map::new();
    entry.insert(key.to_owned(), value.clone());
    lines(&Value::Object(entry))
}

fn lines(value: &Value) -> Option<Vec<String>> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let mut text = String::new();
    serde_saphyr::to_fmt_writer_with_options(&mut text, value, options).ok()?;
    Some(text.lines().map(str::to_owned).collect())
}

/// The value as JSON text in a layout.
pub fn flow(value: &Value, layout: &Layout) -> Option<String> {
    match layout {
        Layout::Compact => serde_json::to_string(value).ok(),
        Layout::OneLine => {
            let mut bytes = Vec::new();
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Spaced)).ok()?;
            String::from_utf8(bytes).ok()
        }
        Layout::Lines { indent, unit, newline } => {
            let mut bytes = Vec::new();
            let formatter = serde_json::ser::PrettyFormatter::with_indent(unit.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter)).ok()?;
            Some(String::from_utf8(bytes).ok()?.replace('\n', &format!("{newline}{indent}")))
        }
    }
}

/// JSON on one line with a space behind each comma and colon.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_text_quotes_what_other_readers_take_for_something_else() {
        let text =
            block_items(&[serde_json::json!({"name": "n", "y": "0x1F", "e": "1e3", "o": "010"})]).unwrap();
        assert_eq!(text, [r#"- name: "n""#, r#"  "y": "0x1F""#, r#"  e: "1e3""#, r#"  o: "010""#]);
    }

    #[test]
    fn a_long_value_stays_on_its_line() {
        let long = "A".repeat(5000);
        let spaced = "word ".repeat(500);
        let text = block_items(&[serde_json::json!({"v": long, "s": spaced})]).unwrap();
        assert_eq!(text.len(), 2);
    }

    #[test]
    fn flow_text_follows_the_layout() {
        let value = serde_json::json!({"a": [1, 2], "b": {}});
        assert_eq!(flow(&value, &Layout::Compact).unwrap(), r#"{"a":[1,2],"b":{}}"#);
        assert_eq!(flow(&value, &Layout::OneLine).unwrap(), r#"{"a": [1, 2], "b": {}}"#);
        let lines = Layout::Lines { indent: "\t".into(), unit: "\t".into(), newline: "\r\n" };
        assert!(flow(&value, &lines).unwrap().starts_with("{\r\n\t\t\"a\": ["));
    }
}

//! Damage to a text: what people, editors and template engines do to YAML.

use proptest::prelude::*;

/// One damage.
#[derive(Clone, Debug)]
pub enum Damage {
    DeleteLine(prop::sample::Index),
    RepeatLine(prop::sample::Index),
    Indent(prop::sample::Index, usize),
    Insert(prop::sample::Index, String),
    Cut(prop::sample::Index, usize),
    Crlf,
}

pub fn damage() -> impl Strategy<Value = Damage> {
    let token = prop::sample::select(vec![
        "- ",
        "-",
        ":",
        ": ",
        "# c",
        "\n",
        "\t",
        "  ",
        "&a ",
        "*a",
        "!ignore ",
        "|",
        ">",
        "\"",
        "'",
        "{",
        "}",
        "[",
        "]",
        ",",
        "---\n",
        "...\n",
        "null",
        "~",
        "é",
        "\u{2028}",
        "? ",
        "%YAML 1.2\n",
        "\\",
        "<<: *a\n",
        "=",
        "\r",
    ]);
    let any = || any::<prop::sample::Index>();
    prop_oneof![
        any().prop_map(Damage::DeleteLine),
        any().prop_map(Damage::RepeatLine),
        (any(), 0..4usize).prop_map(|(at, by)| Damage::Indent(at, by)),
        (any(), token).prop_map(|(at, token)| Damage::Insert(at, token.to_owned())),
        (any(), "\\PC{0,4}").prop_map(|(at, text)| Damage::Insert(at, text)),
        (any(), 1..6usize).prop_map(|(at, length)| Damage::Cut(at, length)),
        Just(Damage::Crlf),
    ]
}

pub fn inflict(text: &str, damage: &Damage) -> String {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    match damage {
        Damage::DeleteLine(at) if !lines.is_empty() => drop(lines.remove(at.index(lines.len()))),
        Damage::RepeatLine(at) if !lines.is_empty() => {
            let at = at.index(lines.len());
            lines.insert(at, lines[at].clone());
        }
        Damage::Indent(at, by) if !lines.is_empty() => {
            let at = at.index(lines.len());
            lines[at] = format!("{}{}", " ".repeat(*by), lines[at]);
        }
        Damage::Crlf => return text.replace("\r\n", "\n").replace('\n', "\r\n"),
        Damage::Insert(at, token) => {
            let mut chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len() + 1);
            chars.splice(at..at, token.chars());
            return chars.into_iter().collect();
        }
        Damage::Cut(at, length) => {
            let mut chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len() + 1);
            let end = (at + length).min(chars.len());
            chars.drain(at..end);
            return chars.into_iter().collect();
        }
        _ => {}
    }
    lines.concat()
}

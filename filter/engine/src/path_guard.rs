//! Refuses paths that two parsers could read differently, so that a rule and the application see one path.
//!
//! SEMANTICS 4.4. The listener normalizes before (`normalize_path`, `merge_slashes`); this holds whatever the listener
//! does. Deliberately absent: rewriting. What is left after the listener's normalization and still ambiguous is
//! refused with 400.

use serde::{Deserialize, Serialize};

/// When the guard looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuardMode {
    /// On every HTTP request.
    Always,
    /// On every HTTP request as long as some policy has a rule about paths (Meshward's default).
    WhenPathsMatter,
    /// Never. Only to compare with Istio: DENY rules on paths can then be evaded.
    Never,
}

/// What becomes of `;name=value` in path segments, which some applications strip and others do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathParams {
    /// Rules see the path without them.
    Strip,
    /// A path with `;` is refused.
    Reject,
    /// Rules see them, as in Istio.
    Keep,
}

/// Settings of the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathGuard {
    /// When the guard looks.
    pub mode: GuardMode,
    /// What becomes of `;name=value`.
    pub path_params: PathParams,
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathFault {
    /// It does not start with `/` (and is not `*`).
    NotAbsolute,
    /// `//`.
    EmptySegment,
    /// `.` or `..` as a segment, also written `%2e`.
    DotSegment,
    /// `%2f` or `%5c`.
    EscapedSlash,
    /// `\`.
    Backslash,
    /// `#`.
    Fragment,
    /// A byte below 0x20, 0x7f, or one of them percent-encoded.
    Control,
    /// `;` where path parameters are rejected.
    PathParameter,
    /// More than [`MAX_STRIPPED`] bytes in a path with parameters to strip.
    TooLong,
}

impl PathFault {
    /// A stable name for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAbsolute => "not_absolute",
            Self::EmptySegment => "empty_segment",
            Self::DotSegment => "dot_segment",
            Self::EscapedSlash => "escaped_slash",
            Self::Backslash => "backslash",
            Self::Fragment => "fragment",
            Self::Control => "control_byte",
            Self::PathParameter => "path_parameter",
            Self::TooLong => "too_long",
        }
    }
}

/// Longest path, in bytes, whose parameters are stripped.
pub const MAX_STRIPPED: usize = 8192;

/// Checks a `:path` (its query is not looked at, except for `#`).
pub fn check(path: &[u8], params: PathParams) -> Result<(), PathFault> {
    if path.contains(&b'#') {
        return Err(PathFault::Fragment);
    }
    let path = path.split(|byte| *byte == b'?').next().unwrap_or(path);
    if path == b"*" {
        return Ok(());
    }
    let rest = path.strip_prefix(b"/").ok_or(PathFault::NotAbsolute)?;
    let mut segments = rest.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        // A trailing slash, and `/` itself, end in one empty segment.
        let last = segments.peek().is_none();
        check_segment(segment, params, last)?;
    }
    Ok(())
}

fn check_segment(segment: &[u8], params: PathParams, last: bool) -> Result<(), PathFault> {
    for (at, byte) in segment.iter().enumerate() {
        match byte {
            0..0x20 | 0x7f => return Err(PathFault::Control),
            b'\\' => return Err(PathFault::Backslash),
            b';' if params == PathParams::Reject => return Err(PathFault::PathParameter),
            b'%' => match decoded(segment.get(at + 1..)) {
                Some(b'/' | b'\\') => return Err(PathFault::EscapedSlash),
                Some(0..0x20 | 0x7f) => return Err(PathFault::Control),
                _ => {}
            },
            _ => {}
        }
    }
    // Applications that know parameters drop them before they read dots, so `..;x` is a dot segment for them.
    let name = segment.split(|byte| *byte == b';').next().unwrap_or(segment);
    if is_dots(name) {
        return Err(PathFault::DotSegment);
    }
    if name.is_empty() && !(last && segment.is_empty()) {
        return Err(PathFault::EmptySegment);
    }
    Ok(())
}

/// The byte that two hexadecimal digits stand for.
fn decoded(digits: Option<&[u8]>) -> Option<u8> {
    match digits? {
        [high, low, ..] => {
            let value = char::from(*high).to_digit(16)? * 16 + char::from(*low).to_digit(16)?;
            u8::try_from(value).ok()
        }
        _ => None,
    }
}

/// `.` and `..`, each dot as it is or as `%2e`.
fn is_dots(segment: &[u8]) -> bool {
    let mut rest = segment;
    let mut dots = 0;
    while !rest.is_empty() {
        rest = match rest {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return false,
        };
        dots += 1;
    }
    dots == 1 || dots == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_paths_are_refused() {
        for (path, fault) in [
            ("books", PathFault::NotAbsolute),
            ("", PathFault::NotAbsolute),
            ("//", PathFault::EmptySegment),
            ("/a//b", PathFault::EmptySegment),
            ("/a/;x/b", PathFault::EmptySegment),
            ("/a/./b", PathFault::DotSegment),
            ("/a/..", PathFault::DotSegment),
            ("/a/%2e%2E/b", PathFault::DotSegment),
            ("/a/.%2e?x", PathFault::DotSegment),
            ("/a/..;x=1/b", PathFault::DotSegment),
            ("/a%2fb", PathFault::EscapedSlash),
            ("/a%5Cb", PathFault::EscapedSlash),
            ("/a\\b", PathFault::Backslash),
            ("/a#b", PathFault::Fragment),
            ("/a?x#b", PathFault::Fragment),
            ("/a\0", PathFault::Control),
            ("/a%00", PathFault::Control),
            ("/a%0a", PathFault::Control),
            ("/a\x7f", PathFault::Control),
        ] {
            assert_eq!(check(path.as_bytes(), PathParams::Keep), Err(fault), "{path:?}");
        }
        assert_eq!(check(b"/a;x=1/b", PathParams::Reject), Err(PathFault::PathParameter));
    }

    #[test]
    fn plain_paths_pass() {
        for path in [
            "/",
            "*",
            "/a",
            "/a/",
            "/a/b?c=//../%2f",
            "/...",
            "/.well-known/x",
            "/a;x=1/b",
            "/%e2%82%ac",
            "/a%2",
        ] {
            assert_eq!(check(path.as_bytes(), PathParams::Keep), Ok(()), "{path:?}");
        }
    }
}

//! Refuses paths that two parsers could read differently, so that a rule and the application see one path.
//!
//! SEMANTICS.md, Paths. The listener normalizes before (`normalize_path`, `merge_slashes`); this holds whatever the listener
//! does. Deliberately absent: rewriting. What is left after the listener's normalization and still ambiguous is
//! refused with 400.

use serde::{Deserialize, Serialize};

use crate::pattern::is_template_byte;

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
    /// A byte that no path template matches, such as `|` or one that is not ASCII, where a template in a DENY rule or
    /// in `notPaths` could be evaded with it (as it can in Istio).
    BesideTemplates,
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
            Self::BesideTemplates => "beside_templates",
        }
    }
}

/// What a byte of a path asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Nothing.
    Plain,
    Slash,
    Dot,
    Percent,
    Semicolon,
    /// The end of the path.
    Question,
    Fault(PathFault),
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Plain; 256];
    let mut byte = 0;
    while byte < classes.len() {
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would say so")]
        {
            classes[byte] = match byte as u8 {
                0..0x20 | 0x7f => Class::Fault(PathFault::Control),
                b'\\' => Class::Fault(PathFault::Backslash),
                b'#' => Class::Fault(PathFault::Fragment),
                b'/' => Class::Slash,
                b'.' => Class::Dot,
                b'%' => Class::Percent,
                b';' => Class::Semicolon,
                b'?' => Class::Question,
                _ => Class::Plain,
            };
        }
        byte += 1;
    }
    classes
};

/// Checks a `:path` (its query is not looked at, except for `#`). One pass, whatever is in it.
pub fn check(path: &[u8], params: PathParams) -> Result<(), PathFault> {
    let (first, rest) = path.split_first().ok_or(PathFault::NotAbsolute)?;
    if *first != b'/' {
        // `*` is what OPTIONS asks of a whole server.
        return if path == b"*" { Ok(()) } else { Err(PathFault::NotAbsolute) };
    }
    let mut rest = rest.iter();
    let mut segment = Segment::default();
    while let Some(byte) = rest.next() {
        match CLASSES.get(usize::from(*byte)).copied().unwrap_or(Class::Plain) {
            Class::Plain => segment.plain = true,
            Class::Dot => segment.dots += 1,
            Class::Slash => {
                segment.end(false)?;
                segment = Segment::default();
            }
            Class::Percent => match decoded(rest.as_slice()) {
                Some(b'/' | b'\\') => return Err(PathFault::EscapedSlash),
                Some(0..0x20 | 0x7f) => return Err(PathFault::Control),
                Some(b'.') => {
                    segment.dots += 1;
                    rest = rest.as_slice().get(2..).unwrap_or(&[]).iter();
                }
                _ => segment.plain = true,
            },
            Class::Semicolon if params == PathParams::Reject => return Err(PathFault::PathParameter),
            Class::Semicolon => {
                // Applications that know parameters drop them before they read dots: `..;x` is a dot segment to them.
                segment.check_name()?;
                segment = Segment { plain: true, ..Segment::default() };
            }
            Class::Question => {
                segment.end(true)?;
                return if rest.as_slice().contains(&b'#') { Err(PathFault::Fragment) } else { Ok(()) };
            }
            Class::Fault(fault) => return Err(fault),
        }
    }
    segment.end(true)
}

/// Checks that path templates see every byte of a path.
pub fn check_beside_templates(path: &[u8]) -> Result<(), PathFault> {
    let path = path.split(|byte| *byte == b'?').next().unwrap_or(path);
    let seen = path.iter().all(|byte| *byte == b'/' || is_template_byte(*byte));
    if seen { Ok(()) } else { Err(PathFault::BesideTemplates) }
}

/// What has been seen of a segment's name.
#[derive(Default)]
struct Segment {
    /// Dots, also `%2e`.
    dots: usize,
    /// Anything else.
    plain: bool,
}

impl Segment {
    /// At the end of a segment; `last` of the path, where it may be empty: a trailing slash, and `/` itself.
    fn end(&self, last: bool) -> Result<(), PathFault> {
        if last && self.dots == 0 && !self.plain { Ok(()) } else { self.check_name() }
    }

    fn check_name(&self) -> Result<(), PathFault> {
        match self {
            Self { plain: true, .. } => Ok(()),
            Self { dots: 0, .. } => Err(PathFault::EmptySegment),
            Self { dots: 1 | 2, .. } => Err(PathFault::DotSegment),
            Self { .. } => Ok(()),
        }
    }
}

/// The byte that two hexadecimal digits stand for.
fn decoded(digits: &[u8]) -> Option<u8> {
    let (high, low) = (digits.first()?, digits.get(1)?);
    let value = char::from(*high).to_digit(16)? * 16 + char::from(*low).to_digit(16)?;
    u8::try_from(value).ok()
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

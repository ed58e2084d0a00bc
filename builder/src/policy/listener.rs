//! What the rendered listener makes of a path before the filter sees it: `normalize_path`, `merge_slashes`, escaped
//! slashes refused, a fragment refused (SEMANTICS.md, Paths).
//!
//! Measured on Envoy 1.40.0; `tests/path_vectors.rs` compares with the measurements. Deliberately absent: anything that
//! the codec refuses before (a space, a control byte).

use std::borrow::Cow;

use meshward_engine::path_guard::PathFault;

/// The path as the filter sees it.
///
/// # Errors
/// The listener answers 400 itself.
pub fn normalize(sent: &[u8]) -> Result<Cow<'_, [u8]>, PathFault> {
    if sent.contains(&b'#') {
        return Err(PathFault::Fragment);
    }
    let sent = without_origin(sent);
    if sent == b"*" {
        return Ok(Cow::Borrowed(sent));
    }
    let (path, query) = split_query(sent);
    if !path.starts_with(b"/") {
        return Err(PathFault::NotAbsolute);
    }
    if is_normal(path) {
        return Ok(Cow::Borrowed(sent));
    }
    let decoded = canonical(path)?;
    // Slashes are merged after `..` has taken away what is before it, be that an empty segment.
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut rest = decoded.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(segment) = rest.next() {
        let up = segment == b".." || segment.starts_with(b"..;");
        if up {
            segments.pop();
        }
        if !up && segment != b"." {
            segments.push(segment);
        } else if rest.peek().is_none() {
            segments.push(b"");
        }
    }
    let mut normal = Vec::with_capacity(sent.len());
    for segment in &segments {
        if normal.last() != Some(&b'/') {
            normal.push(b'/');
        }
        normal.extend_from_slice(segment);
    }
    if normal.is_empty() {
        normal.push(b'/');
    }
    normal.extend_from_slice(query);
    Ok(Cow::Owned(normal))
}

/// The path with its percent-encoded unreserved characters (RFC 3986, 2.3) decoded, which changes nothing that it means.
///
/// Every listener of Meshward's does it, and an application does it too: `/%61dmin` is `/admin`.
pub fn decode_unreserved(path: &[u8]) -> Cow<'_, [u8]> {
    let (before, query) = split_query(path);
    if !before.contains(&b'%') {
        return Cow::Borrowed(path);
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = before;
    while let Some((byte, after)) = rest.split_first() {
        rest = match escaped(rest).filter(|value| is_unreserved(*value)) {
            Some(value) => {
                decoded.push(value);
                rest.get(3..).unwrap_or_default()
            }
            None => {
                decoded.push(*byte);
                after
            }
        };
    }
    decoded.extend_from_slice(query);
    Cow::Owned(decoded)
}

/// HTTP/1's absolute form, `http://host/path`: the listener takes the path out of it.
fn without_origin(sent: &[u8]) -> &[u8] {
    let lower: Vec<u8> = sent.iter().take(8).map(u8::to_ascii_lowercase).collect();
    let scheme = match lower.as_slice() {
        [b'h', b't', b't', b'p', b's', b':', b'/', b'/'] => 8,
        [b'h', b't', b't', b'p', b':', b'/', b'/', ..] => 7,
        _ => return sent,
    };
    let rest = sent.get(scheme..).unwrap_or_default();
    match rest.iter().position(|byte| *byte == b'/') {
        Some(at) => rest.get(at..).unwrap_or_default(),
        None => b"/",
    }
}

/// Path, and query with its `?`.
fn split_query(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().position(|byte| *byte == b'?').unwrap_or(path.len());
    path.split_at_checked(end).unwrap_or((path, b""))
}

/// Nothing to do, as for almost every path.
fn is_normal(path: &[u8]) -> bool {
    let plain = |byte: &u8| !matches!(byte, b'%' | b'\\') && !is_escaped_by_listener(*byte);
    path.iter().all(plain) && !path.windows(2).any(|pair| matches!(pair, b"//" | b"/."))
}

/// Escapes and slashes as the listener writes them, dot segments still there.
fn canonical(path: &[u8]) -> Result<Vec<u8>, PathFault> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((byte, after)) = rest.split_first() {
        let value = escaped(rest);
        rest = after;
        match (byte, value) {
            (_, Some(value)) => {
                match value {
                    b'/' | b'\\' => return Err(PathFault::EscapedSlash),
                    0 => return Err(PathFault::Control),
                    _ if is_unreserved(value) => {
                        out.push(value);
                        guard_nested_escape(&mut out);
                    }
                    _ => {
                        out.push(*byte);
                        out.extend(after.get(..2).unwrap_or_default());
                    }
                }
                rest = after.get(2..).unwrap_or_default();
            }
            (b'\\', _) => out.push(b'/'),
            (byte, _) if is_escaped_by_listener(*byte) => {
                out.extend_from_slice(format!("%{byte:02X}").as_bytes());
            }
            (byte, _) => out.push(*byte),
        }
    }
    Ok(out)
}

/// Decoding must not make a new escape out of a bare `%`: it then becomes `%25`.
fn guard_nested_escape(out: &mut Vec<u8>) {
    let Some(at) = out.len().checked_sub(3) else { return };
    if escaped(out.get(at..).unwrap_or_default()).is_some() {
        out.splice(at + 1..at + 1, *b"25");
    }
}

/// The byte that `%xx` at the start stands for.
fn escaped(text: &[u8]) -> Option<u8> {
    match text {
        [b'%', high, low, ..] => {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
        }
        _ => None,
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What the URL standard percent-encodes in a path.
fn is_escaped_by_listener(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'`' | b'{' | b'}' | 0..=0x20 | 0x7f..)
}

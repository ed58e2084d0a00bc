//! Headers: one, or all at once, which costs less than two single ones. Names are in lower case, as Envoy
//! keeps them; values are bytes.

use super::{HostBytes, HostError, abi, check};

/// `HttpRequestHeaders` in the ABI's list of maps.
const REQUEST_HEADERS: u32 = 0;
/// `HttpResponseHeaders`.
const RESPONSE_HEADERS: u32 = 2;
/// `HttpResponseTrailers`.
const RESPONSE_TRAILERS: u32 = 3;

/// One header's value; the values of a repeated header joined by `,`. `None` when it is absent.
///
/// # Errors
/// The host has no such map in this callback.
pub fn request_header(name: &str) -> Result<Option<HostBytes>, HostError> {
    header(REQUEST_HEADERS, name)
}

/// One header of the response, as [`request_header`].
///
/// # Errors
/// The host has no such map in this callback.
pub fn response_header(name: &str) -> Result<Option<HostBytes>, HostError> {
    header(RESPONSE_HEADERS, name)
}

/// One trailer of the response, as [`request_header`]; known when the stream has ended. A tenth of a microsecond when there
/// are none, as there seldom are.
///
/// # Errors
/// The host has no such map in this callback.
pub fn response_trailer(name: &str) -> Result<Option<HostBytes>, HostError> {
    header(RESPONSE_TRAILERS, name)
}

/// Adds a header to the response.
///
/// # Errors
/// The host has no such map in this callback.
pub fn add_response_header(name: &str, value: &str) -> Result<(), HostError> {
    check(abi::add_header(RESPONSE_HEADERS, name.as_bytes(), value.as_bytes()))
}

fn header(map: u32, name: &str) -> Result<Option<HostBytes>, HostError> {
    let mut bytes = HostBytes::default();
    match check(abi::header(map, name.as_bytes(), &mut bytes)) {
        Ok(()) => Ok(Some(bytes)),
        Err(HostError::NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All request headers.
///
/// # Errors
/// The host has no such map in this callback.
pub fn request_headers() -> Result<HeaderMap, HostError> {
    let mut bytes = HostBytes::default();
    check(abi::header_map(REQUEST_HEADERS, &mut bytes))?;
    Ok(HeaderMap(bytes))
}

/// Headers as the ABI lays them out: a count, a pair of lengths per header, then name, NUL, value, NUL of each.
/// All numbers are 32 bits, little-endian.
#[derive(Debug)]
pub struct HeaderMap(HostBytes);

/// The elements of a property that is a list: Envoy lays it out as headers without values. `None` when it is none.
///
/// Others can look like one: an object whose values are empty, a text that spells one byte by byte.
pub fn list(bytes: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let (mut number, mut end) = (0, read_u32(bytes, 0)?.checked_mul(8)?.checked_add(4)?);
    for (element, value) in pairs(bytes) {
        if !value.is_empty() {
            return None;
        }
        number += 1;
        end += element.len() + 2;
    }
    (number == read_u32(bytes, 0)? && end == bytes.len()).then(|| pairs(bytes).map(|(element, _)| element))
}

impl HeaderMap {
    /// Names and values in the order of the request, repeated headers as often as they came.
    ///
    /// Ends early where the layout makes no sense, which would be the host's mistake.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        pairs(&self.0)
    }
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let count = read_u32(bytes, 0).unwrap_or(0);
    let mut place = count.saturating_mul(8).saturating_add(4);
    (0..count).map_while(move |index| {
        let lengths = index.checked_mul(8)?.checked_add(4)?;
        let name = take(bytes, &mut place, read_u32(bytes, lengths)?)?;
        let value = take(bytes, &mut place, read_u32(bytes, lengths.checked_add(4)?)?)?;
        Some((name, value))
    })
}

fn read_u32(bytes: &[u8], at: usize) -> Option<usize> {
    let four: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(four)).ok()
}

/// `length` bytes from `place`, which moves past them and their NUL.
fn take<'a>(bytes: &'a [u8], place: &mut usize, length: usize) -> Option<&'a [u8]> {
    let end = place.checked_add(length)?;
    let part = bytes.get(*place..end)?;
    *place = end.checked_add(1)?;
    Some(part)
}

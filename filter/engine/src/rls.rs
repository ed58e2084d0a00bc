//! What is said to a rate limit service (`envoy.service.ratelimit.v3`), and what it answers, as protobuf.
//!
//! By hand: two messages of a few fields, where a library's code would be a tenth of the module's budget.
//! <https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/service/ratelimit/v3/rls.proto>

use alloc::vec::Vec;

use crate::rate_limit::Nanoseconds;

/// The gRPC service and its method.
pub const SERVICE: &str = "envoy.service.ratelimit.v3.RateLimitService";
/// See [`SERVICE`].
pub const METHOD: &str = "ShouldRateLimit";

/// `RateLimitUnit` of a period; `None`: the protocol has no such window.
#[must_use]
pub fn unit(period: Nanoseconds) -> Option<u32> {
    const SECOND: Nanoseconds = 1_000_000_000;
    let units = [SECOND, 60 * SECOND, 3600 * SECOND, 86_400 * SECOND];
    Some(units.iter().position(|unit| *unit == period)? as u32 + 1)
}

/// Appends an entry of a descriptor, what makes a budget of its own: printable ASCII as it is, other bytes, `%` and `_` as `%0a`.
/// Protobuf's texts are UTF-8, which a header need not be, and services join entries by `_`.
#[inline(never)]
pub fn entry(descriptor: &mut Vec<u8>, name: &str, value: &[u8]) {
    let mut printable = Vec::with_capacity(value.len());
    for byte in value {
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b'_') {
            printable.push(*byte);
        } else {
            let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' + value - 10 };
            printable.extend_from_slice(&[b'%', digit(byte >> 4), digit(*byte & 15)]);
        }
    }
    let mut entry = Vec::new();
    text(&mut entry, 1, name.as_bytes());
    text(&mut entry, 2, &printable);
    text(descriptor, 1, &entry);
}

/// `RateLimitRequest`: may `hits` requests of this descriptor pass? The limit goes with it, requests in a period, so that the
/// service needs no configuration of its own. `None`: the protocol has no such period.
#[must_use]
pub fn request(
    domain: &str,
    mut descriptor: Vec<u8>,
    limit: (u32, Nanoseconds),
    hits: u32,
) -> Option<Vec<u8>> {
    let (requests, period) = limit;
    let (mut limit, mut request) = (Vec::new(), Vec::new());
    number(&mut limit, 1, requests);
    number(&mut limit, 2, unit(period)?);
    text(&mut descriptor, 2, &limit);
    text(&mut request, 1, domain.as_bytes());
    text(&mut request, 2, &descriptor);
    number(&mut request, 3, hits);
    Some(request)
}

/// What the service says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// They may not.
    pub over_limit: bool,
    /// What is left of the budget after this, if the service says so; 0 of one that is refused.
    pub remaining: Option<u32>,
    /// Time until the window ends, if the service says so.
    pub reset: Option<Nanoseconds>,
}

/// Reads a `RateLimitResponse`. `None`: it is none, its answer is neither yes nor no, or it says that the service has no such
/// limit: it would let pass whatever it is asked for.
#[must_use]
pub fn answer(bytes: &[u8]) -> Option<Answer> {
    const OK: u64 = 1;
    const OVER_LIMIT: u64 = 2;
    let mut found = Answer::default();
    let (mut code, mut unlimited) = (0, false);
    fields(bytes, &mut |number, value, inner| match number {
        1 => code = value,
        // `statuses`: the limit that was counted, what is left of it, the time until it is reset.
        2 => {
            let (mut is_counted, mut remaining) = (false, 0);
            fields(inner, &mut |number, value, inner| match number {
                2 => is_counted = true,
                3 => remaining = u32::try_from(value).unwrap_or(u32::MAX),
                4 => found.reset = Some(duration(inner)),
                _ => {}
            });
            unlimited |= !is_counted;
            found.remaining = Some(remaining);
        }
        _ => {}
    })?;
    found.over_limit = code == OVER_LIMIT;
    (code == OK && !unlimited || code == OVER_LIMIT).then_some(found)
}

/// `google.protobuf.Duration`.
fn duration(bytes: &[u8]) -> Nanoseconds {
    let mut time: Nanoseconds = 0;
    fields(bytes, &mut |number, value, _| {
        let factor = if number == 1 { 1_000_000_000 } else { 1 };
        time = time.saturating_add(value.saturating_mul(factor));
    });
    time
}

/// `envoy.config.core.v3.GrpcService` that names a cluster.
#[must_use]
pub fn grpc_service(cluster: &str) -> Vec<u8> {
    let (mut envoy, mut service) = (Vec::new(), Vec::new());
    text(&mut envoy, 1, cluster.as_bytes());
    text(&mut service, 1, &envoy);
    service
}

#[inline(never)]
fn varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(out: &mut Vec<u8>, field: u32, value: u32) {
    varint(out, field << 3);
    varint(out, value);
}

#[inline(never)]
fn text(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, value.len() as u32);
    out.extend_from_slice(value);
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Calls `seen` with every field of a message: its number, and its value or its bytes. `None`: damaged.
pub fn fields(mut bytes: &[u8], seen: &mut dyn FnMut(u64, u64, &[u8])) -> Option<()> {
    while !bytes.is_empty() {
        let tag = read_varint(&mut bytes)?;
        let (value, length) = match tag & 7 {
            0 => (read_varint(&mut bytes)?, 0),
            1 => (0, 8),
            2 => (0, read_varint(&mut bytes)?),
            5 => (0, 4),
            _ => return None,
        };
        let (inner, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
        bytes = rest;
        seen(tag >> 3, value, inner);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_protobuf() {
        let mut descriptor = Vec::new();
        entry(&mut descriptor, "limit", b"shop/a_b");
        entry(&mut descriptor, "method", b"GET");
        let request = request("meshward", descriptor, (300, 60_000_000_000), 12);
        let wanted = b"\x0a\x08meshward\x12\x2b\
            \x0a\x13\x0a\x05limit\x12\x0ashop/a%5fb\
            \x0a\x0d\x0a\x06method\x12\x03GET\
            \x12\x05\x08\xac\x02\x10\x02\x18\x0c";
        assert_eq!(request.as_deref(), Some(&wanted[..]));
        assert_eq!(grpc_service("rls"), b"\x0a\x05\x0a\x03rls");
    }

    #[test]
    fn answers_are_read_and_damaged_ones_are_none() {
        assert_eq!(answer(b"\x08\x01"), Some(Answer::default()));
        // A status with code, current limit, remaining and 17.5 s until reset; headers are passed over.
        let long = b"\x08\x02\x12\x12\x08\x02\x12\x02\x08\x05\x18\x00\x22\x08\x08\x11\x10\x80\xca\xb5\xee\x01\x1a\x02\x0a\x00";
        assert_eq!(
            answer(long),
            Some(Answer { over_limit: true, remaining: Some(0), reset: Some(17_500_000_000) })
        );
        let left = Answer { over_limit: false, remaining: Some(300), reset: None };
        assert_eq!(answer(b"\x08\x01\x12\x07\x08\x01\x12\x00\x18\xac\x02"), Some(left));
        assert_eq!(answer(b"\x08\x01\x12\x02\x08\x01"), None, "it has no such limit");
        for damaged in [&b""[..], b"\x08", b"\x08\x00", b"\x08\x03", b"\x12\x05\x08", b"\x0b\x01", b"\xff"] {
            assert_eq!(answer(damaged), None, "{damaged:?}");
        }
        for length in 0..long.len() {
            let _ = answer(&long[..length]);
        }
    }

    #[test]
    fn periods_of_the_protocol() {
        assert_eq!(
            [1, 60, 3600, 86_400, 10].map(|seconds| unit(seconds * 1_000_000_000)),
            [Some(1), Some(2), Some(3), Some(4), None]
        );
    }
}

//! Text without `core::fmt`, which takes 8 kB of the filter's module as soon as one number is written with it.

use alloc::string::String;
use core::net::{IpAddr, Ipv6Addr};

/// Appends a number in decimal.
#[inline(never)]
pub fn push_number(text: &mut String, number: u64) {
    if number >= 10 {
        push_number(text, number / 10);
    }
    text.push(char::from(b'0' + (number % 10) as u8));
}

/// A number in decimal.
#[inline(never)]
#[must_use]
pub fn decimal(number: u64) -> String {
    let mut text = String::new();
    push_number(&mut text, number);
    text
}

/// Appends a number in lower-case hexadecimal, in `digits` digits at least.
pub fn push_hexadecimal(text: &mut String, number: u16, digits: u32) {
    for place in (0..4).rev() {
        let digit = u32::from(number >> (place * 4) & 15);
        if place < digits || number >> (place * 4) > 0 {
            text.push(char::from_digit(digit, 16).unwrap_or('?'));
        }
    }
}

/// Appends an address, as `core::net` writes it (RFC 5952; an IPv4 address in IPv6 form has no dots).
pub fn push_address(text: &mut String, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (at, byte) in address.octets().into_iter().enumerate() {
                text.push_str(if at == 0 { "" } else { "." });
                push_number(text, byte.into());
            }
        }
        IpAddr::V6(address) => push_v6(text, address),
    }
}

fn push_v6(text: &mut String, address: Ipv6Addr) {
    let segments = address.segments();
    let zeroes = |from: usize| segments.iter().skip(from).take_while(|segment| **segment == 0).count();
    // The longest run of two zeroes or more is left out; of equals the first.
    let (mut start, mut length) = (segments.len(), 0);
    for at in 0..segments.len() {
        let run = zeroes(at);
        if run > length.max(1) {
            (start, length) = (at, run);
        }
    }
    for (at, segment) in segments.into_iter().enumerate() {
        if at == start {
            text.push_str("::");
        } else if at < start || at >= start + length {
            text.push_str(if at == 0 || at == start + length { "" } else { ":" });
            push_hexadecimal(text, segment, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_core_writes_them() {
        for number in [0, 1, 9, 10, 99, 100, 12_345, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(decimal(number), number.to_string());
        }
        for number in [0u16, 1, 0x0f, 0x10, 0xff, 0x100, 0xabc, 0xffff] {
            let mut text = String::new();
            push_hexadecimal(&mut text, number, 2);
            assert_eq!(text, format!("{number:02x}"));
        }
    }

    #[test]
    fn addresses_are_written_as_core_writes_them() {
        let write = |address: IpAddr| {
            let mut text = String::new();
            push_address(&mut text, address);
            assert_eq!(text, address.to_string());
        };
        for text in ["0.0.0.0", "255.255.255.255", "10.0.20.103"] {
            write(text.parse().unwrap());
        }
        // Every pattern of zero and other segments; the first is never 0, nor are IPv4 addresses among them.
        for pattern in 0..256u32 {
            for other in [0x1u16, 0xabcd] {
                let mut segments = [0; 8];
                for (at, segment) in segments.iter_mut().enumerate() {
                    *segment = if pattern >> at & 1 == 1 { other } else { 0 };
                }
                write(IpAddr::V6(segments.into()));
            }
        }
    }
}

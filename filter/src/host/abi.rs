//! The imports of proxy-wasm ABI 0.2.1 that this filter uses, and safe functions of the same shape.
//!
//! All unsafe code of the crate is here, but for the names of the exports (`crate::dispatch`). Every function passes a pointer and a length that come from one live slice,
//! or pointers to locals that the host writes before it returns; the host keeps none of them. Statuses stay numbers:
//! Envoy has more of them than the SDK's enum, and an enum made from an unknown number is undefined behaviour.
#![allow(unsafe_code, reason = "host calls are foreign functions")]

use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::{NonNull, null_mut};

use super::buffer::HostBytes;

mod import {
    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        pub fn proxy_log(level: u32, message: *const u8, message_size: usize) -> u32;
        pub fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
        pub fn proxy_get_buffer_bytes(
            buffer: u32,
            start: usize,
            max_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
        pub fn proxy_get_header_map_value(
            map: u32,
            key: *const u8,
            key_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub fn proxy_get_property(
            path: *const u8,
            path_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub fn proxy_set_property(
            path: *const u8,
            path_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> u32;
        pub fn proxy_get_shared_data(
            key: *const u8,
            key_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
            cas: *mut u32,
        ) -> u32;
        pub fn proxy_set_shared_data(
            key: *const u8,
            key_size: usize,
            value: *const u8,
            value_size: usize,
            cas: u32,
        ) -> u32;
        pub fn proxy_add_header_map_value(
            map: u32,
            key: *const u8,
            key_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> u32;
        pub fn proxy_set_effective_context(id: u32) -> u32;
        pub fn proxy_continue_stream(stream: u32) -> u32;
        pub fn proxy_grpc_call(
            service: *const u8,
            service_size: usize,
            name: *const u8,
            name_size: usize,
            method: *const u8,
            method_size: usize,
            metadata: *const u8,
            metadata_size: usize,
            message: *const u8,
            message_size: usize,
            timeout: u32,
            token: *mut u32,
        ) -> u32;
        pub fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
        pub fn proxy_close_stream(stream: u32) -> u32;
        pub fn proxy_send_local_response(
            status: u32,
            details: *const u8,
            details_size: usize,
            body: *const u8,
            body_size: usize,
            headers: *const u8,
            headers_size: usize,
            grpc_status: i32,
        ) -> u32;
        pub fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
        pub fn proxy_increment_metric(id: u32, offset: i64) -> u32;
        pub fn proxy_record_metric(id: u32, value: u64) -> u32;
    }

    // The part of WASI preview 1 that Envoy has, called directly: the standard library's own ways to the clock and to
    // randomness bring code for their failures.
    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    unsafe extern "C" {
        pub fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u32;
        pub fn random_get(bytes: *mut u8, size: usize) -> u32;
    }
}

pub fn log(level: u32, message: &[u8]) -> u32 {
    // SAFETY: see the module.
    unsafe { import::proxy_log(level, message.as_ptr(), message.len()) }
}

pub fn current_time(time: &mut u64) -> u32 {
    // SAFETY: see the module.
    unsafe { import::proxy_get_current_time_nanoseconds(time) }
}

pub fn buffer(buffer: u32, max_size: usize, bytes: &mut HostBytes) -> u32 {
    receive(bytes, |data, size| {
        // SAFETY: see the module.
        unsafe { import::proxy_get_buffer_bytes(buffer, 0, max_size, data, size) }
    })
}

pub fn header_map(map: u32, bytes: &mut HostBytes) -> u32 {
    receive(bytes, |data, size| {
        // SAFETY: see the module.
        unsafe { import::proxy_get_header_map_pairs(map, data, size) }
    })
}

pub fn header(map: u32, name: &[u8], bytes: &mut HostBytes) -> u32 {
    receive(bytes, |data, size| {
        // SAFETY: see the module.
        unsafe { import::proxy_get_header_map_value(map, name.as_ptr(), name.len(), data, size) }
    })
}

pub fn property(path: &[u8], bytes: &mut HostBytes) -> u32 {
    receive(bytes, |data, size| {
        // SAFETY: see the module.
        unsafe { import::proxy_get_property(path.as_ptr(), path.len(), data, size) }
    })
}

pub fn set_property(path: &[u8], value: &[u8]) -> u32 {
    // SAFETY: see the module.
    unsafe { import::proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) }
}

pub fn shared_data(key: &[u8], bytes: &mut HostBytes, cas: &mut u32) -> u32 {
    receive(bytes, |data, size| {
        // SAFETY: see the module.
        unsafe { import::proxy_get_shared_data(key.as_ptr(), key.len(), data, size, cas) }
    })
}

pub fn set_shared_data(key: &[u8], value: &[u8], cas: u32) -> u32 {
    // SAFETY: see the module.
    unsafe { import::proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas) }
}

pub fn add_header(map: u32, name: &[u8], value: &[u8]) -> u32 {
    // SAFETY: see the module.
    unsafe { import::proxy_add_header_map_value(map, name.as_ptr(), name.len(), value.as_ptr(), value.len()) }
}

pub fn set_tick_period(milliseconds: u32) -> u32 {
    // SAFETY: no pointers.
    unsafe { import::proxy_set_tick_period_milliseconds(milliseconds) }
}

pub fn clock(clock: u32, time: &mut u64) -> u32 {
    // SAFETY: see the module.
    unsafe { import::clock_time_get(clock, 1, time) }
}

pub fn random(bytes: &mut [u8]) -> u32 {
    // SAFETY: see the module.
    unsafe { import::random_get(bytes.as_mut_ptr(), bytes.len()) }
}

pub fn set_effective_context(id: u32) -> u32 {
    // SAFETY: no pointers.
    unsafe { import::proxy_set_effective_context(id) }
}

pub fn continue_stream(stream: u32) -> u32 {
    // SAFETY: no pointers.
    unsafe { import::proxy_continue_stream(stream) }
}

pub fn grpc_call(
    service: &[u8],
    name: &[u8],
    method: &[u8],
    message: &[u8],
    milliseconds: u32,
    token: &mut u32,
) -> u32 {
    // SAFETY: see the module.
    unsafe {
        import::proxy_grpc_call(
            service.as_ptr(),
            service.len(),
            name.as_ptr(),
            name.len(),
            method.as_ptr(),
            method.len(),
            // No metadata.
            message.as_ptr(),
            0,
            message.as_ptr(),
            message.len(),
            milliseconds,
            token,
        )
    }
}

pub fn close_stream(stream: u32) -> u32 {
    // SAFETY: no pointers.
    unsafe { import::proxy_close_stream(stream) }
}

pub fn send_local_response(
    status: u32,
    details: &[u8],
    body: &[u8],
    headers: &[u8],
    grpc_status: i32,
) -> u32 {
    // SAFETY: see the module.
    unsafe {
        import::proxy_send_local_response(
            status,
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            grpc_status,
        )
    }
}

pub fn define_metric(kind: u32, name: &[u8], id: &mut u32) -> u32 {
    // SAFETY: see the module.
    unsafe { import::proxy_define_metric(kind, name.as_ptr(), name.len(), id) }
}

pub fn increment_metric(id: u32, offset: i64) -> u32 {
    // SAFETY: no pointers.
    unsafe { import::proxy_increment_metric(id, offset) }
}

pub fn record_metric(id: u32, value: u64) -> u32 {
    // SAFETY: no pointers.
    unsafe { import::proxy_record_metric(id, value) }
}

/// Runs a call that returns bytes, and takes them over.
fn receive(bytes: &mut HostBytes, call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> u32 {
    let mut data: *mut u8 = null_mut();
    let mut size: usize = 0;
    let status = call(&mut data, &mut size);
    *bytes = if status == 0 && !data.is_null() {
        // SAFETY: the host had the memory from `proxy_on_memory_allocate(size)`, of exactly this layout and given up
        // for us to own. The host wrote all of it.
        HostBytes::new(unsafe { Vec::from_raw_parts(data, size, size) })
    } else {
        HostBytes::default()
    };
    status
}

/// Memory for bytes that the host is about to hand over, for [`receive`] to own. Null when there is none.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    match Layout::array::<u8>(size) {
        // SAFETY: the layout has a size.
        Ok(layout) if size > 0 => unsafe { alloc::alloc::alloc(layout) },
        // What a vector without capacity has.
        Ok(_) => NonNull::dangling().as_ptr(),
        Err(_) => null_mut(),
    }
}

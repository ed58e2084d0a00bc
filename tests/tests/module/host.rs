//! A scripted proxy-wasm host: the real module in an interpreter, what it asks for from a table, what it does in a
//! record. Every host call is counted, since their number is the filter's cost.
//!
//! Deliberately absent: whatever the filter does not call. Such a call traps with its name.

use std::collections::BTreeMap;

use wasmi::{Caller, Error, Extern, Linker, Memory, Module, Store, TypedFunc};

const OK: i32 = 0;
const NOT_FOUND: i32 = 1;
const BAD_ARGUMENT: i32 = 2;
const CAS_MISMATCH: i32 = 8;

/// `Action::Continue` and `Action::Pause` of the ABI.
pub const CONTINUE: i32 = 0;
pub const PAUSE: i32 = 1;

/// A local response that the filter sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub status: i32,
    pub details: String,
    pub body: Vec<u8>,
    pub headers: Vec<u8>,
}

/// What the host knows and what the filter did to it.
#[derive(Debug, Default)]
pub struct World {
    pub configuration: Vec<u8>,
    /// By path with NUL between the parts.
    pub properties: BTreeMap<Vec<u8>, Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Nanoseconds since 1970.
    pub now: u64,
    /// Filter state that the filter set.
    pub state: BTreeMap<Vec<u8>, Vec<u8>>,
    pub shared: BTreeMap<Vec<u8>, (Vec<u8>, i32)>,
    pub metrics: Vec<(String, i64)>,
    pub logs: Vec<(i32, String)>,
    pub sent: Vec<Sent>,
    /// Headers of the response: the upstream's, then those that the filter added.
    pub response_headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Streams that the filter closed.
    pub closed: Vec<i32>,
    /// Host calls by name.
    pub calls: BTreeMap<&'static str, usize>,
    /// A status that every host call of this name answers with instead.
    pub broken: BTreeMap<&'static str, i32>,
}

impl World {
    pub fn metric(&self, name: &str) -> i64 {
        self.metrics.iter().filter(|(known, _)| known == name).map(|(_, value)| value).sum()
    }

    pub fn logged(&self, part: &str) -> bool {
        self.logs.iter().any(|(_, line)| line.contains(part))
    }
}

/// The module in a fresh VM, with one root context (number 1).
pub struct Vm {
    store: Store<World>,
    module: wasmi::Instance,
    next_context: i32,
}

type Result<T> = std::result::Result<T, Error>;

impl Vm {
    /// Makes a VM of the module and its root context, without configuring it.
    pub fn new(module: &Module) -> Self {
        let engine = module.engine();
        let mut store = Store::new(engine, World::default());
        let mut linker = Linker::new(engine);
        define(&mut linker).unwrap();
        for import in module.imports() {
            let name = import.name().to_owned();
            if let wasmi::ExternType::Func(ty) = import.ty() {
                let trap = move |_: Caller<'_, World>, _: &[wasmi::Val], _: &mut [wasmi::Val]| {
                    Err(Error::new(format!("the filter called `{name}`")))
                };
                // What is defined already stays: the second definition is refused.
                let _ = linker.func_new(import.module(), import.name(), ty.clone(), trap);
            }
        }
        let module = linker.instantiate_and_start(&mut store, module).unwrap();
        let mut vm = Self { store, module, next_context: 2 };
        vm.call::<(), ()>("_initialize", ()).unwrap();
        vm.call::<(i32, i32), ()>("proxy_on_context_create", (1, 0)).unwrap();
        vm
    }

    /// Runs `on_configure`; whether the filter took it.
    pub fn configure(&mut self, configuration: &[u8]) -> Result<bool> {
        let size = i32::try_from(configuration.len()).unwrap();
        self.world().configuration = configuration.to_vec();
        Ok(self.call::<(i32, i32), i32>("proxy_on_configure", (1, size))? != 0)
    }

    /// A new context, as Envoy makes one for each request or connection.
    pub fn context(&mut self) -> Result<i32> {
        let context = self.next_context;
        self.next_context += 1;
        self.call::<(i32, i32), ()>("proxy_on_context_create", (context, 1))?;
        Ok(context)
    }

    /// One request with the world's headers; the action. What it did is in the world afterwards.
    pub fn request(&mut self) -> Result<i32> {
        let context = self.context()?;
        let count = i32::try_from(self.world().headers.len()).unwrap();
        self.world().calls.clear();
        let action = self.call::<(i32, i32, i32), i32>("proxy_on_request_headers", (context, count, 1))?;
        self.delete(context)?;
        Ok(action)
    }

    pub fn delete(&mut self, context: i32) -> Result<()> {
        self.call::<i32, ()>("proxy_on_delete", context)
    }

    pub fn downstream_data(&mut self, context: i32, size: i32) -> Result<i32> {
        self.call::<(i32, i32, i32), i32>("proxy_on_downstream_data", (context, size, 0))
    }

    pub fn world(&mut self) -> &mut World {
        self.store.data_mut()
    }

    /// Bytes of memory that the VM has.
    pub fn memory(&self) -> usize {
        self.module.get_memory(&self.store, "memory").unwrap().data_size(&self.store)
    }

    fn call<P: wasmi::WasmParams, R: wasmi::WasmResults>(&mut self, name: &str, arguments: P) -> Result<R> {
        let function: TypedFunc<P, R> = self.module.get_typed_func(&self.store, name)?;
        function.call(&mut self.store, arguments)
    }
}

fn memory(caller: &Caller<'_, World>) -> Memory {
    caller.get_export("memory").and_then(Extern::into_memory).expect("the module exports its memory")
}

fn read(caller: &Caller<'_, World>, at: i32, size: i32) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    memory(caller)
        .read(caller, at as u32 as usize, &mut bytes)
        .expect("the filter passed bytes of its memory");
    bytes
}

fn write(caller: &mut Caller<'_, World>, at: i32, bytes: &[u8]) {
    memory(caller).write(caller, at as u32 as usize, bytes).expect("the filter passed a place in its memory");
}

/// Hands `bytes` over as Envoy does: in memory that the module allocates.
fn give(caller: &mut Caller<'_, World>, bytes: &[u8], data: i32, size: i32) -> Result<()> {
    let allocate =
        caller.get_export("proxy_on_memory_allocate").and_then(Extern::into_func).expect("an allocator");
    let allocate = allocate.typed::<i32, i32>(&caller)?;
    let at = allocate.call(&mut *caller, i32::try_from(bytes.len()).unwrap())?;
    write(caller, at, bytes);
    write(caller, data, &at.to_le_bytes());
    write(caller, size, &(bytes.len() as u32).to_le_bytes());
    Ok(())
}

/// Counts the call, and gives the status that it is scripted to fail with.
fn enter(caller: &mut Caller<'_, World>, name: &'static str) -> Option<i32> {
    let world = caller.data_mut();
    *world.calls.entry(name).or_default() += 1;
    world.broken.get(name).copied()
}

fn pairs(headers: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = (headers.len() as u32).to_le_bytes().to_vec();
    for (name, value) in headers {
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend((value.len() as u32).to_le_bytes());
    }
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend(text);
        bytes.push(0);
    }
    bytes
}

fn define(linker: &mut Linker<World>) -> Result<()> {
    type C<'a> = Caller<'a, World>;
    linker.func_wrap("env", "proxy_log", |mut c: C<'_>, level: i32, at: i32, size: i32| {
        let line = String::from_utf8(read(&c, at, size)).expect("a log line is text");
        c.data_mut().logs.push((level, line));
        enter(&mut c, "log").unwrap_or(OK)
    })?;
    linker.func_wrap("env", "proxy_get_current_time_nanoseconds", |mut c: C<'_>, at: i32| {
        let now = c.data().now;
        write(&mut c, at, &now.to_le_bytes());
        enter(&mut c, "now").unwrap_or(OK)
    })?;
    linker.func_wrap(
        "env",
        "proxy_get_buffer_bytes",
        |mut c: C<'_>, buffer: i32, start: i32, max: i32, data: i32, size: i32| -> Result<i32> {
            if let Some(status) = enter(&mut c, "buffer") {
                return Ok(status);
            }
            if buffer != 7 {
                return Ok(BAD_ARGUMENT);
            }
            let all = c.data().configuration.clone();
            let end = all.len().min(start as usize + max as usize);
            give(&mut c, &all[start as usize..end], data, size)?;
            Ok(OK)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_header_map_pairs",
        |mut c: C<'_>, map: i32, data: i32, size: i32| -> Result<i32> {
            if let Some(status) = enter(&mut c, "headers") {
                return Ok(status);
            }
            assert_eq!(map, 0, "only request headers");
            let bytes = pairs(&c.data().headers);
            give(&mut c, &bytes, data, size)?;
            Ok(OK)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_header_map_value",
        |mut c: C<'_>, map: i32, name: i32, name_size: i32, data: i32, size: i32| -> Result<i32> {
            if let Some(status) = enter(&mut c, "header") {
                return Ok(status);
            }
            let name = read(&c, name, name_size);
            let headers = match map {
                0 => &c.data().headers,
                2 => &c.data().response_headers,
                _ => panic!("map {map}: only request and response headers"),
            };
            let values: Vec<_> = headers.iter().filter(|(n, _)| *n == name).map(|(_, v)| v.clone()).collect();
            if values.is_empty() {
                return Ok(NOT_FOUND);
            }
            give(&mut c, &values.join(&b','), data, size)?;
            Ok(OK)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_property",
        |mut c: C<'_>, path: i32, path_size: i32, data: i32, size: i32| -> Result<i32> {
            if let Some(status) = enter(&mut c, "property") {
                return Ok(status);
            }
            let path = read(&c, path, path_size);
            match c.data().properties.get(&path).cloned() {
                Some(value) => give(&mut c, &value, data, size).map(|()| OK),
                None => Ok(NOT_FOUND),
            }
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_property",
        |mut c: C<'_>, path: i32, path_size: i32, value: i32, value_size: i32| {
            if let Some(status) = enter(&mut c, "set_property") {
                return status;
            }
            let (path, value) = (read(&c, path, path_size), read(&c, value, value_size));
            c.data_mut().state.insert(path, value);
            OK
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_shared_data",
        |mut c: C<'_>, key: i32, key_size: i32, data: i32, size: i32, cas: i32| -> Result<i32> {
            if let Some(status) = enter(&mut c, "get_shared_data") {
                return Ok(status);
            }
            let key = read(&c, key, key_size);
            let Some((value, number)) = c.data().shared.get(&key).cloned() else { return Ok(NOT_FOUND) };
            give(&mut c, &value, data, size)?;
            write(&mut c, cas, &number.to_le_bytes());
            Ok(OK)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_shared_data",
        |mut c: C<'_>, key: i32, key_size: i32, value: i32, value_size: i32, cas: i32| {
            if let Some(status) = enter(&mut c, "set_shared_data") {
                return status;
            }
            let (key, value) = (read(&c, key, key_size), read(&c, value, value_size));
            let number = c.data().shared.get(&key).map_or(0, |(_, number)| *number);
            if cas != 0 && number != 0 && cas != number {
                return CAS_MISMATCH;
            }
            c.data_mut().shared.insert(key, (value, number + 1));
            OK
        },
    )?;
    linker.func_wrap("env", "proxy_close_stream", |mut c: C<'_>, stream: i32| {
        if let Some(status) = enter(&mut c, "close_stream") {
            return status;
        }
        c.data_mut().closed.push(stream);
        OK
    })?;
    linker.func_wrap(
        "env",
        "proxy_send_local_response",
        |mut c: C<'_>,
         status: i32,
         details: i32,
         details_size: i32,
         body: i32,
         body_size: i32,
         headers: i32,
         headers_size: i32,
         grpc_status: i32| {
            if let Some(status) = enter(&mut c, "send_local_response") {
                return status;
            }
            assert!(grpc_status == -1 || grpc_status == 8, "Envoy chooses the gRPC status, but of a limit");
            let details = String::from_utf8(read(&c, details, details_size)).expect("details are text");
            let (body, headers) = (read(&c, body, body_size), read(&c, headers, headers_size));
            c.data_mut().sent.push(Sent { status, details, body, headers });
            OK
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_define_metric",
        |mut c: C<'_>, kind: i32, name: i32, name_size: i32, id: i32| {
            if let Some(status) = enter(&mut c, "define_metric") {
                return status;
            }
            assert!((0..=2).contains(&kind), "a counter, gauge or histogram");
            let name = String::from_utf8(read(&c, name, name_size)).expect("a metric's name is text");
            let metrics = &mut c.data_mut().metrics;
            let found = metrics.iter().position(|(known, _)| *known == name).unwrap_or(metrics.len());
            if found == metrics.len() {
                metrics.push((name, 0));
            }
            write(&mut c, id, &(found as u32).to_le_bytes());
            OK
        },
    )?;
    linker.func_wrap("env", "proxy_increment_metric", |mut c: C<'_>, id: i32, offset: i64| {
        if let Some(status) = enter(&mut c, "increment_metric") {
            return status;
        }
        match c.data_mut().metrics.get_mut(id as usize) {
            Some((_, value)) if offset > 0 => {
                *value += offset;
                OK
            }
            _ => BAD_ARGUMENT,
        }
    })?;
    linker.func_wrap("env", "proxy_record_metric", |mut c: C<'_>, id: i32, value: i64| {
        if let Some(status) = enter(&mut c, "record_metric") {
            return status;
        }
        match c.data_mut().metrics.get_mut(id as usize) {
            Some((_, recorded)) => {
                *recorded = value;
                OK
            }
            None => BAD_ARGUMENT,
        }
    })?;
    linker.func_wrap(
        "env",
        "proxy_add_header_map_value",
        |mut c: C<'_>, map: i32, name: i32, name_size: i32, value: i32, value_size: i32| {
            if let Some(status) = enter(&mut c, "add_header") {
                return status;
            }
            assert_eq!(map, 2, "only response headers");
            let header = (read(&c, name, name_size), read(&c, value, value_size));
            c.data_mut().response_headers.push(header);
            OK
        },
    )?;
    linker.func_wrap("env", "proxy_set_tick_period_milliseconds", |mut c: C<'_>, _: i32| {
        enter(&mut c, "set_tick_period").unwrap_or(OK)
    })?;
    linker.func_wrap(
        "wasi_snapshot_preview1",
        "clock_time_get",
        |mut c: C<'_>, clock: i32, _: i64, at: i32| {
            assert_eq!(clock, 1, "the monotonic clock");
            let now = c.data().now;
            write(&mut c, at, &now.to_le_bytes());
            OK
        },
    )?;
    linker.func_wrap("wasi_snapshot_preview1", "random_get", |mut c: C<'_>, at: i32, size: i32| {
        let bytes: Vec<u8> = (0..size).map(|number| (number * 37 + 11) as u8).collect();
        write(&mut c, at, &bytes);
        OK
    })?;
    // A panic's last words. Any is a bug: the test fails on the trap that follows, with the message in the output.
    linker.func_wrap(
        "wasi_snapshot_preview1",
        "fd_write",
        |c: C<'_>, _: i32, vectors: i32, count: i32, _: i32| {
            for index in 0..count {
                let vector = read(&c, vectors + index * 8, 8);
                let word = |at: usize| i32::from_le_bytes(vector[at..at + 4].try_into().unwrap());
                eprint!("{}", String::from_utf8_lossy(&read(&c, word(0), word(4))));
            }
            OK
        },
    )?;
    linker.func_wrap(
        "wasi_snapshot_preview1",
        "environ_sizes_get",
        |mut c: C<'_>, count: i32, size: i32| {
            write(&mut c, count, &[0; 4]);
            write(&mut c, size, &[0; 4]);
            OK
        },
    )?;
    linker.func_wrap("wasi_snapshot_preview1", "environ_get", |_: C<'_>, _: i32, _: i32| OK)?;
    Ok(())
}

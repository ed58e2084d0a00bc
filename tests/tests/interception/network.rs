//! Pods without Kubernetes: a network namespace each, on a bridge in one more. Root, `ip`, `nsenter`, `unshare` and `setpriv`
//! make them; nothing of the machine's own network is touched, and all goes with the test's process.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, bail, ensure};
use meshward_tests::until;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::unistd::{Uid, setfsuid};

/// A namespace with its own network and mounts; gone when dropped.
pub struct Namespace {
    holder: Child,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

impl Namespace {
    pub fn new() -> anyhow::Result<Self> {
        let holder = Command::new("unshare")
            .args(["--net", "--mount", "setpriv", "--pdeathsig", "KILL", "sleep", "infinity"])
            .stderr(Stdio::null())
            .spawn()?;
        let mut namespace = Self { holder };
        let own = std::fs::read_link("/proc/self/ns/net")?;
        until("a namespace", || {
            std::fs::read_link(namespace.file("net")).is_ok_and(|link| link != own)
                || namespace.holder.try_wait().is_ok_and(|ended| ended.is_some())
        })?;
        ensure!(namespace.holder.try_wait()?.is_none(), "`unshare` may not make one");
        namespace.run(&["ip", "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    fn file(&self, kind: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/{kind}", self.holder.id()))
    }

    /// A command in it, as root.
    pub fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.file("net").display()));
        command.arg(format!("--mount={}", self.file("mnt").display()));
        command.args(line);
        command
    }

    pub fn run(&self, line: &[&str]) -> anyhow::Result<String> {
        let output = self.command(line).output()?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("{line:?}: {}{err}{out}", output.status);
        }
        Ok(out.into_owned())
    }

    /// Does something in its network, as this user, as far as sockets are concerned.
    pub fn inside<T: Send>(&self, user: u32, what: impl FnOnce() -> T + Send) -> T {
        let network = File::open(self.file("net")).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(network, CloneFlags::CLONE_NEWNET).unwrap();
                setfsuid(Uid::from_raw(user));
                what()
            });
            thread.join().unwrap()
        })
    }
}

/// The bridge between the pods.
pub struct Bridge {
    namespace: Namespace,
    pods: std::cell::Cell<u8>,
}

impl Bridge {
    pub fn new() -> anyhow::Result<Self> {
        let namespace = Namespace::new()?;
        namespace.run(&["ip", "link", "add", "bridge", "type", "bridge"])?;
        namespace.run(&["ip", "link", "set", "bridge", "up"])?;
        Ok(Self { namespace, pods: std::cell::Cell::new(0) })
    }

    /// A pod that has this address, and finds others by these names.
    pub fn pod(&self, address: Ipv4Addr, hosts: &Path) -> anyhow::Result<Namespace> {
        let pod = Namespace::new()?;
        let number = self.pods.get() + 1;
        self.pods.set(number);
        let (port, id) = (format!("pod{number}"), pod.holder.id().to_string());
        let run = |line: &[&str]| self.namespace.run(line);
        run(&["ip", "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &id])?;
        run(&["ip", "link", "set", &port, "master", "bridge", "up"])?;
        pod.run(&["ip", "addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
        let last = address.octets().last().copied().context("an address")?;
        // Where the kernel has no IPv6 there is nothing to try.
        let _ = pod.run(&["ip", "addr", "add", &format!("fd00::{last}/64"), "dev", "eth0", "nodad"]);
        pod.run(&["ip", "link", "set", "eth0", "up"])?;
        pod.run(&["mount", "--bind", hosts.to_str().context("a path")?, "/etc/hosts"])?;
        Ok(pod)
    }

    /// Everything that goes over the bridge from now on.
    pub fn tap(&self) -> Tap {
        let stop = Arc::new(AtomicBool::new(false));
        let socket = self.namespace.inside(0, || {
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll).unwrap()
        });
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).unwrap();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            use std::os::fd::AsRawFd as _;
            let (mut all, mut packet) = (Vec::new(), vec![0; 1 << 16]);
            loop {
                match recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                    Ok(length) => all.extend_from_slice(packet.get(..length).unwrap_or_default()),
                    Err(_) if stopped.load(Ordering::SeqCst) => return all,
                    Err(_) => {}
                }
            }
        });
        Tap { stop, thread }
    }
}

pub struct Tap {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u8>>,
}

impl Tap {
    /// What was heard.
    pub fn stop(self) -> Vec<u8> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

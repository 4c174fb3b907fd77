//! Two hosts in network namespaces of their own, joined by a virtual cable.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::LinkNameSpaceType;

/// Addresses of the host with the server.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const SERVER_ALIAS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);

/// Addresses of the other host.
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub const OTHER_PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
pub const PEER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
pub const OTHER_PEER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 3);

const PREFIX: &str = "epmd-test-";

/// Two namespaces, removed when dropped.
#[derive(Debug)]
pub struct Network {
    pub server_host: String,
    pub peer_host: String,
}

impl Network {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "network namespaces can be made by root only: run this suite as root"
        );
        assert!(
            Command::new("ip").arg("-V").output().is_ok_and(|output| output.status.success()),
            "the program `ip` is missing: apt-get install iproute2"
        );
        remove_leftovers();

        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let network = Self { server_host: format!("{name}s"), peer_host: format!("{name}p") };
        for host in [&network.server_host, &network.peer_host] {
            ip(&["netns", "add", host]);
            ip(&["-n", host, "link", "set", "lo", "up"]);
        }
        // Made inside a namespace, so that no interface appears on the machine itself.
        let cable = ["link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns"];
        ip(&[&["-n", &network.server_host][..], &cable, &[&network.peer_host]].concat());
        network.connect(&network.server_host, &[SERVER, SERVER_ALIAS], &[SERVER_V6]);
        network.connect(&network.peer_host, &[PEER, OTHER_PEER], &[PEER_V6, OTHER_PEER_V6]);
        network
    }

    /// More addresses for the other host.
    pub fn add_peer_addresses<A: Into<IpAddr>>(&self, addresses: impl IntoIterator<Item = A>) {
        addresses.into_iter().for_each(|address| add_address(&self.peer_host, address.into()));
    }

    /// More addresses for the host with the server.
    pub fn add_server_addresses<A: Into<IpAddr>>(&self, addresses: impl IntoIterator<Item = A>) {
        addresses.into_iter().for_each(|address| add_address(&self.server_host, address.into()));
    }

    fn connect(&self, host: &str, ipv4: &[Ipv4Addr], ipv6: &[Ipv6Addr]) {
        ipv4.iter().for_each(|address| add_address(host, (*address).into()));
        ipv6.iter().for_each(|address| add_address(host, (*address).into()));
        ip(&["-n", host, "link", "set", "cable", "up"]);
    }

    /// Runs something on the host with the server.
    pub fn on_server_host<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.server_host, work)
    }

    /// Runs something on the other host.
    pub fn on_peer_host<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.peer_host, work)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in [&self.server_host, &self.peer_host] {
            let _ = Command::new("ip").args(["netns", "delete", host]).output();
        }
    }
}

/// Runs work on a new thread inside the namespace: a namespace is a property of a thread.
fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(Path::new("/run/netns").join(namespace)).expect("a namespace of this test");
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root can enter a namespace");
            work()
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Removes namespaces of test processes that were killed before they could do so.
fn remove_leftovers() {
    let Ok(namespaces) = fs::read_dir("/run/netns") else {
        return;
    };
    for namespace in namespaces.flatten() {
        let name = namespace.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = Command::new("ip").args(["netns", "delete", &name]).output();
        }
    }
}

fn add_address(host: &str, address: IpAddr) {
    let add = ["-n", host, "address", "add"];
    match address {
        IpAddr::V4(_) => ip(&[&add[..], &[&format!("{address}/24"), "dev", "cable"]].concat()),
        // Without duplicate address detection the address can be used at once.
        IpAddr::V6(_) => ip(&[&add[..], &[&format!("{address}/64"), "dev", "cable", "nodad"]].concat()),
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("`ip` can be started");
    assert!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
}

/// A source and a destination address.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    pub from: IpAddr,
    pub to: IpAddr,
}

impl Route {
    pub fn new(from: impl Into<IpAddr>, to: impl Into<IpAddr>) -> Self {
        Self { from: from.into(), to: to.into() }
    }
}

//! A node without a VM: serves the port on the loopback address, or joins whoever does, and is registered until it is
//! stopped. `cargo run -p epmd_core --example member -- NAME PORT`; then `epmd -names` lists it.

use std::env;
use std::error::Error;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use epmd_core::{HandOver, Health, Journal, Limits, Member, Node, NodeName, Policy, ServiceManager, Settings};

const EPMD_PORT: u16 = 4369;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [name, port] = arguments.as_slice() else { return Err("usage: member NAME PORT".into()) };
    let node = Node::erlang(NodeName::new(name.as_bytes())?, port.parse()?);
    let (member, handle) = Member::start(Settings {
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        port: EPMD_PORT,
        inet6: false,
        policy: Policy::default(),
        limits: Limits::default(),
        hand_over: HandOver::default(),
        service_manager: ServiceManager::from_environment(EPMD_PORT)?,
        journal: Journal::default(),
        health: Health::default(),
    })
    .await?;
    // A handle waits for the member's answers, so it is used on another thread.
    thread::spawn(move || match handle.register(node, None, Duration::from_secs(10)) {
        Ok(creation) => println!("{:?}, registered with creation {creation}", handle.status().role),
        Err(error) => {
            eprintln!("not registered: {error}");
            handle.stop();
        }
    });
    Ok(member.run().await?)
}

//! Any bytes to the decoder of requests. A decoded registration, lookup or plan is encoded again, and must then decode to
//! the same.

#![no_main]

use epmd_core::protocol::{self, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = protocol::decode_alive2_reply(bytes);
    let Ok(Some(frame)) = protocol::frame(bytes) else { return };
    let again = match Request::decode(frame) {
        Ok(Request::Alive2 { node: Ok(node), .. }) => protocol::alive2_request(&node),
        Ok(Request::PortPlease2(name)) => protocol::port_please2_request(name),
        Ok(Request::Plan(name, ports)) => protocol::plan_request(name.as_str(), ports),
        _ => return,
    };
    let again = protocol::frame(&again).expect("well-formed").expect("whole");
    assert_eq!(Request::decode(frame), Request::decode(again));
});

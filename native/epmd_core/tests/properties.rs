//! Properties of the codec for any bytes, and of the registry, against a simple model, for any order of events.

use std::collections::HashMap;
use std::sync::Weak;

use epmd_core::protocol::{self, Alive2Reply, Port2Reply, Request, INBOX, MAX_REQUEST};
use epmd_core::registry::{Holder, Registration, Registry};
use epmd_core::{Node, NodeName};
use proptest::collection::vec;
use proptest::prelude::*;

fn names() -> impl Strategy<Value = String> {
    vec(any::<char>().prop_filter("a character of a name", |c| !c.is_whitespace() && !c.is_control()), 1..=255)
        .prop_map(String::from_iter)
}

prop_compose! {
    fn nodes()(
        name in names(),
        port: u16,
        node_type: u8,
        protocol: u8,
        highest_version: u16,
        lowest_version: u16,
        extra in vec(any::<u8>(), 0..=1020),
    ) -> Node {
        let name = NodeName::new(name.as_bytes()).expect("a valid name");
        Node { name, port, node_type, protocol, highest_version, lowest_version, extra: extra.into() }
    }
}

/// Bytes that often begin like a request, so that the first check is passed.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let tags = prop::sample::select(b"xzndksapy".to_vec());
    let framed = (tags, vec(any::<u8>(), 0..600), -2i32..=2).prop_map(|(tag, body, off)| {
        let length = (body.len() as i32 + 1 + off).clamp(0, i32::from(u16::MAX)) as u16;
        [&length.to_be_bytes()[..], &[tag], &body].concat()
    });
    prop_oneof![vec(any::<u8>(), 0..INBOX), framed]
}

proptest! {
    #[test]
    fn decoding_any_bytes_never_panics(bytes in bytes()) {
        if let Ok(Some(frame)) = protocol::frame(&bytes) {
            prop_assert!((1..=MAX_REQUEST).contains(&frame.len()));
            prop_assert_eq!(frame.len() + 2, bytes.len());
            let _ = Request::decode(frame);
        }
        let _ = Request::decode(&bytes);
        let _ = protocol::decode_alive2_reply(&bytes);
    }

    #[test]
    fn a_read_never_takes_more_than_fits_and_ends_with_the_request(bytes in bytes(), at in any::<prop::sample::Index>()) {
        let part = &bytes[..at.index(bytes.len() + 1)];
        if part.len() <= INBOX && matches!(protocol::frame(part), Ok(None)) {
            let wanted = protocol::wanted(part);
            prop_assert!(wanted > 0 && part.len() + wanted <= INBOX);
        }
    }

    #[test]
    fn a_registration_survives_encoding(node in nodes()) {
        let bytes = protocol::alive2_request(&node);
        let frame = protocol::frame(&bytes).expect("well-formed").expect("whole");
        let expected = Request::Alive2 { highest_version: node.highest_version, node: Ok(node) };
        prop_assert_eq!(Request::decode(frame), Ok(expected));
    }

    #[test]
    fn a_look_up_survives_encoding(name in names()) {
        let bytes = protocol::port_please2_request(&name);
        let frame = protocol::frame(&bytes).expect("well-formed").expect("whole");
        prop_assert_eq!(Request::decode(frame), Ok(Request::PortPlease2(&name)));
    }

    #[test]
    fn a_question_for_a_port_survives_encoding(name in names(), first: u16, more in 0..2000u16) {
        let ports = first..=first.saturating_add(more);
        let bytes = protocol::plan_request(&name, ports.clone());
        let frame = protocol::frame(&bytes).expect("well-formed").expect("whole");
        let is_range = first > 0 && (1..=protocol::MAX_PLANNED).contains(&ports.len());
        let expected = Request::Plan(NodeName::new(name.as_bytes()).expect("a valid name"), ports);
        prop_assert_eq!(Request::decode(frame), if is_range { Ok(expected) } else { Err(protocol::Malformed) });
    }

    #[test]
    fn every_part_of_a_request_is_unfinished_and_none_is_another_request(node in nodes()) {
        let bytes = protocol::alive2_request(&node);
        for length in 0..bytes.len() {
            prop_assert_eq!(protocol::frame(&bytes[..length]), Ok(None));
        }
    }

    #[test]
    fn a_reply_to_a_look_up_holds_what_was_registered(node in nodes()) {
        let reply = Port2Reply::new(&node);
        prop_assert_eq!(reply.name(), node.name.as_str().as_bytes());
        prop_assert_eq!(reply.port(), node.port);
        prop_assert_eq!(reply.versions(), (node.highest_version, node.lowest_version));
        prop_assert!(reply.as_bytes().ends_with(&node.extra));
    }

    #[test]
    fn a_reply_to_a_registration_survives_encoding(highest_version: u16, creation in prop::option::of(any::<u32>())) {
        let bytes = protocol::alive2_reply(highest_version, creation);
        let expected = match creation {
            None => Alive2Reply::Refused,
            Some(creation) if highest_version >= 6 => Alive2Reply::Granted(creation),
            Some(creation) => Alive2Reply::Granted(creation % 3 + 1),
        };
        prop_assert_eq!(protocol::decode_alive2_reply(&bytes), Ok(Some(expected)));
        for length in 0..bytes.len() {
            prop_assert_eq!(protocol::decode_alive2_reply(&bytes[..length]), Ok(None));
        }
    }
}

/// Events of a registry, on a handful of names.
#[derive(Clone, Debug)]
enum Event {
    Register {
        name: u8,
        by_host: bool,
    },
    Restore {
        name: u8,
        creation: u32,
    },
    /// The connection of the n-th registration that was ever granted ends.
    End(prop::sample::Index),
    Stop(u8),
    StopAll,
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..6u8, prop::bool::weighted(0.1)).prop_map(|(name, by_host)| Event::Register { name, by_host }),
        1 => (0..6u8, 4..u32::MAX).prop_map(|(name, creation)| Event::Restore { name, creation }),
        5 => any::<prop::sample::Index>().prop_map(Event::End),
        2 => (0..6u8).prop_map(Event::Stop),
        1 => Just(Event::StopAll),
    ]
}

/// A registration in the model. Later ones have higher numbers.
#[derive(Debug)]
struct Held {
    number: usize,
    port: u16,
    by_host: bool,
}

proptest! {
    #[test]
    fn the_registry_behaves_as_a_simple_map(events in vec(events(), 0..200)) {
        let registry = Registry::default();
        let mut model: HashMap<u8, Held> = HashMap::new();
        let mut granted: Vec<Option<(u8, Registration)>> = Vec::new();
        let mut creations: HashMap<u8, u32> = HashMap::new();

        for (number, event) in events.into_iter().enumerate() {
            match event {
                Event::Register { .. } | Event::Restore { .. } => {
                    let (name, by_host, creation) = match event {
                        Event::Register { name, by_host } => (name, by_host, None),
                        Event::Restore { name, creation } => (name, true, Some(creation)),
                        _ => unreachable!(),
                    };
                    let port = number as u16;
                    let node = Node::erlang(NodeName::new(&[b'a' + name]).expect("a valid name"), port);
                    let holder = if by_host { Holder::Local } else { Holder::Connection(Weak::<std::net::TcpStream>::new()) };
                    let result = match creation {
                        Some(creation) => registry.restore(&node, None, holder, creation),
                        None => registry.register(&node, None, holder),
                    };
                    prop_assert_eq!(result.is_ok(), !model.contains_key(&name));
                    if let Ok(registration) = result {
                        match creation {
                            Some(creation) => prop_assert_eq!(registration.creation(), creation),
                            None => prop_assert_ne!(Some(&registration.creation()), creations.get(&name)),
                        }
                        prop_assert!(registration.creation() >= 4);
                        creations.insert(name, registration.creation());
                        model.insert(name, Held { number: granted.len(), port, by_host });
                        granted.push(Some((name, registration)));
                    }
                }
                Event::End(index) if !granted.is_empty() => {
                    let number = index.index(granted.len());
                    if let Some((name, registration)) = granted[number].take() {
                        drop(registration);
                        if model.get(&name).is_some_and(|held| held.number == number) {
                            model.remove(&name);
                        }
                    }
                }
                Event::End(_) => {}
                Event::Stop(name) => {
                    let stopped = model.get(&name).is_some_and(|held| !held.by_host);
                    prop_assert_eq!(registry.stop(&[b'a' + name]), stopped);
                    if stopped {
                        model.remove(&name);
                    }
                }
                Event::StopAll => {
                    registry.stop_all();
                    model.retain(|_, held| held.by_host);
                }
            }

            let mut held: Vec<_> = model.iter().collect();
            held.sort_by_key(|(_, held)| std::cmp::Reverse(held.number));
            let expected: Vec<_> = held.iter().map(|(name, held)| (vec![b'a' + **name], held.port)).collect();
            let listed: Vec<_> = registry.entries().iter().map(|entry| (entry.name().to_vec(), entry.port())).collect();
            prop_assert_eq!(listed, expected);
            for name in 0..6u8 {
                let found = registry.find(&[b'a' + name]).map(|entry| entry.port());
                prop_assert_eq!(found, model.get(&name).map(|held| held.port));
            }
            for left in registry.tombstones() {
                prop_assert!(registry.find(&left.name).is_none(), "a name that is there has left");
            }
        }
    }
}

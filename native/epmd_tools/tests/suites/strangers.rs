//! A process that holds the port and is no EPMD for this host is reported within two seconds; one that says nothing,
//! within five, since an owner may be as slow.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::support::member::{settings, timed, Running};
use crate::support::network::{Network, PEER};
use crate::support::rounds::rounds;
use crate::support::server::{Kind, Settings};
use epmd_core::{HandOver, RegisterError, Role};
use epmd_tools::client::{eventually, free_address, PATIENCE};

/// The promised times, on a machine that does nothing else.
fn in_time() -> Duration {
    rounds(PATIENCE, Duration::from_secs(2))
}

fn in_time_if_silent() -> Duration {
    rounds(PATIENCE, Duration::from_secs(5))
}

#[test]
fn a_forwarder_is_named_at_the_registration() {
    let network = Network::new();
    let container = Settings::new(Kind::Reference).everywhere_in(&network.peer_host).start();
    let port = container.port();
    network.on_server_host(|| {
        let published = TcpListener::bind(("127.0.0.1", port)).unwrap();
        serve(published, move |mut stream| {
            let inside = TcpStream::connect((PEER, port))?;
            let (mut request, mut reply) = (stream.try_clone()?, inside.try_clone()?);
            let mut to_container = inside.try_clone()?;
            thread::spawn(move || io::copy(&mut request, &mut to_container));
            let _ = io::copy(&mut reply, &mut stream);
            stream.shutdown(std::net::Shutdown::Both)
        });
        let member = Running::start(settings(&["127.0.0.1".parse().unwrap()], port));
        assert_eq!(member.handle.status().role, Role::Joined, "it answers lookups");
        let said = refused(&member, in_time());
        let expected = format!("127.0.0.1:{port} answers lookups, but takes no registrations from this host: ");
        assert!(said.starts_with(&expected), "{said}");
        assert!(said.ends_with(&format!("ss -ltnp 'sport = :{port}' (as root)")), "{said}");
        eventually("it is logged, too", || member.log.lines(&expected).len() == 1);
    });
}

#[test]
fn whoever_does_not_answer_a_registration_is_named() {
    let is_named = |answer, within, expected| {
        let port = stranger(answer);
        let member = Running::start(settings(&["127.0.0.1".parse().unwrap()], port));
        let said = refused(&member, within);
        assert!(said.contains(expected), "{said}");
        assert!(said.contains(&format!("sport = :{port}")), "{said}");
        // The member has given this node up. Another one may be registered later.
        eventually("it has joined", || member.handle.status().role == Role::Joined);
        assert!(matches!(member.register("other", 2), Err(RegisterError::Held(_))));
    };
    thread::scope(|scope| {
        scope.spawn(|| is_named(Answer::Nothing, in_time_if_silent(), "does not answer as an EPMD: timed out"));
        scope.spawn(|| is_named(Answer::Garbage, in_time(), "does not answer as an EPMD: it does not speak EPMD"));
        scope.spawn(|| is_named(Answer::Endless, in_time(), "does not answer as an EPMD: it does not speak EPMD"));
        scope.spawn(|| is_named(Answer::OneByteASecond, in_time_if_silent(), "does not answer as an EPMD: timed out"));
        scope.spawn(|| is_named(Answer::End, in_time(), "answers lookups, but takes no registrations"));
    });
}

#[test]
fn whoever_is_no_epmd_at_all_is_named_at_the_start() {
    let silent = TcpListener::bind(free_address()).unwrap();
    let closing = TcpListener::bind(free_address()).unwrap();
    let (silent_port, closing_port) = (silent.local_addr().unwrap().port(), closing.local_addr().unwrap().port());
    serve(closing, |_| Ok(()));
    let is_named = |port, within| {
        let started = || Running::try_start(settings(&["127.0.0.1".parse().unwrap()], port)).err().unwrap();
        let (said, taken) = timed(started);
        assert!(taken < within, "{taken:?}");
        let expected = format!("127.0.0.1:{port} is in use by a program that does not answer as an EPMD: ");
        assert!(said.starts_with(&expected) && said.contains(&format!("sport = :{port}")), "{said}");
    };
    thread::scope(|scope| {
        scope.spawn(|| is_named(silent_port, in_time_if_silent()));
        scope.spawn(|| is_named(closing_port, in_time()));
    });
}

#[test]
fn a_port_that_the_system_refuses_and_nobody_has_is_no_stranger() {
    for ip in ["127.0.0.1", "0.0.0.0"] {
        // A socket that has the port and does not listen. No list of the system shows it.
        let address = SocketAddr::new(ip.parse().unwrap(), free_address().port());
        let port = address.port();
        let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        // A process that another test is just starting may have a copy of the socket that tried the port.
        eventually("a free port", || bound.bind(&address.into()).is_ok());
        let (said, taken) = timed(|| Running::try_start(settings(&[ip.parse().unwrap()], port)).err().unwrap());
        assert!(taken < in_time(), "{taken:?}");
        let expected = format!(
            "cannot listen on {ip}:{port}: the system refuses the port as in use, but no process listens there; "
        );
        assert!(said.starts_with(&expected) && !said.contains("ss -"), "{said}");
    }
}

#[test]
fn the_address_that_is_in_the_way_of_any_is_named() {
    // A port that no other test has at 127.0.0.1: its server may answer.
    let port = free_address().port();
    let _other = TcpListener::bind(("127.0.0.9", port)).unwrap();
    let (said, taken) = timed(|| Running::try_start(settings(&[], port)).err().unwrap());
    assert!(taken < in_time(), "{taken:?}");
    let expected = format!(
        "cannot listen on 0.0.0.0:{port}: 127.0.0.9:{port} is in use, and nobody answers at 127.0.0.1:{port}; "
    );
    assert!(said.starts_with(&expected), "{said}");
    assert!(said.ends_with(&format!("ss -ltnp 'sport = :{port}' (as root)")), "{said}");
    // Beside it there is room.
    drop(Running::start(settings(&["127.0.0.1".parse().unwrap()], port)));
}

#[test]
fn an_owner_that_needs_two_seconds_or_has_just_gone_is_no_stranger() {
    let port = stranger(Answer::GrantedLate);
    let member = Running::start(settings(&["127.0.0.1".parse().unwrap()], port));
    assert_eq!(member.register("node", 1), Ok(7));
    // It closes the first registrations without a reply, as an owner does that is ending.
    let port = stranger(Answer::GrantedAtTheThird);
    let member = Running::start(settings(&["127.0.0.1".parse().unwrap()], port));
    assert_eq!(member.register("node", 1), Ok(7));
    assert_eq!(member.log.lines("ERROR"), Vec::<String>::new());
}

#[test]
fn an_owner_that_waits_for_the_nodes_of_the_last_one_is_no_stranger() {
    let port = free_address().port();
    let start = || {
        let settings = settings(&["127.0.0.1".parse().unwrap()], port);
        Running::try_start(epmd_core::Settings { hand_over: HandOver::off(), ..settings })
    };
    let (last, owner) = (start().unwrap(), start().unwrap());
    owner.register("owner", 1).unwrap();
    last.kill();
    owner.serves();
    let member = start().unwrap();
    assert_eq!(member.handle.status().role, Role::Joined);
    member.register("member", 2).unwrap();
}

fn refused(member: &Running, within: Duration) -> String {
    let (outcome, taken) = timed(|| member.register("node", 1));
    assert!(taken < within, "{taken:?}");
    let Err(RegisterError::Held(said)) = outcome else { panic!("{outcome:?}") };
    said
}

#[derive(Clone, Copy)]
enum Answer {
    Nothing,
    Garbage,
    /// What begins as a refusal, and does not end.
    Endless,
    /// A grant that takes longer than it may.
    OneByteASecond,
    End,
    GrantedLate,
    GrantedAtTheThird,
}

/// Starts a server that answers lookups like an EPMD, and registrations in the given way. Returns its port.
fn stranger(answer: Answer) -> u16 {
    let listener = TcpListener::bind(free_address()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut asked = 0;
    serve(listener, move |mut stream| {
        let mut request = [0; 64];
        let read = stream.read(&mut request)?;
        if read < 3 || request[2] != b'x' {
            return stream.write_all(b"w\x01");
        }
        asked += 1;
        let mut grant = || {
            stream.write_all(b"v\x00\x00\x00\x00\x07")?;
            keep(stream.try_clone()?);
            Ok(())
        };
        match answer {
            Answer::Nothing => {
                keep(stream);
                Ok(())
            }
            Answer::Garbage => stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            // More than a grant at once, so that it cannot be taken for one and bytes behind it.
            Answer::Endless => loop {
                stream.write_all(&[b'v'; 65_536])?;
            },
            Answer::OneByteASecond => b"v\x00\x00\x00\x00\x07".iter().try_for_each(|byte| {
                thread::sleep(Duration::from_secs(1));
                stream.write_all(&[*byte])
            }),
            Answer::End => Ok(()),
            Answer::GrantedLate => {
                thread::sleep(Duration::from_secs(2));
                grant()
            }
            Answer::GrantedAtTheThird if asked < 3 => Ok(()),
            Answer::GrantedAtTheThird => grant(),
        }
    });
    port
}

/// Serves one peer after the other on a thread, until the test process ends.
fn serve(listener: TcpListener, mut peer: impl FnMut(TcpStream) -> io::Result<()> + Send + 'static) {
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let _ = peer(stream);
        }
    });
}

/// Keeps a connection open for as long as the test process lives.
fn keep(stream: TcpStream) {
    std::mem::forget(stream);
}

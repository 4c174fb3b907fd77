//! `KILL_REQ`, `STOP_REQ`, and time-outs.

use std::time::Duration;

use super::with_keeper;
use crate::differential::script::Script;
use epmd_tools::request::{self, alive2, dump, framed, kill, names, port_please2, stop, tagged, KILL};

pub(super) fn kills() -> Vec<Script> {
    let one = || Script::new("KILL", "").ask(0, alive2("one", 4001));
    let killed = |title: &str| Script::new("KILL", title);
    let mut scripts = vec![
        killed("an empty table").ask(0, kill()).same_table_as(Script::new("", "")),
        killed("an empty table, relaxed").relaxed().ask(0, kill()).same_table_as(Script::new("", "")),
        killed("an empty table, with padding").ask(0, tagged(KILL, b"padding")).same_table_as(Script::new("", "")),
        killed("an empty table, a request left unfinished")
            .send(0, [0])
            .close(0)
            .ask(1, kill())
            .same_table_as(Script::new("", "")),
        killed("one node").ask(0, alive2("one", 4001)).ask(1, kill()).ask(2, port_please2("one")),
        killed("one node, twice").ask(0, alive2("one", 4001)).ask(1, kill()).ask(2, kill()),
        killed("one old node").ask(0, alive2("one", 4001)).close(0).ask(1, kill()).same_table_as(one().close(0)),
        killed("one node, relaxed").relaxed().ask(0, alive2("one", 4001)).ask(1, kill()).same_table_as(one().close(0)),
        killed("one node left of two, relaxed")
            .relaxed()
            .ask(0, alive2("one", 4001))
            .ask(1, alive2("two", 4002))
            .close(0)
            .ask(2, kill())
            .same_table_as(one().ask(1, alive2("two", 4002)).close(0).close(1)),
    ];
    let three =
        |script: Script| script.ask(0, alive2("one", 4001)).ask(1, alive2("two", 4002)).ask(2, alive2("three", 4003));
    scripts.push(three(killed("three nodes")).ask(3, kill()));
    scripts.push(
        three(killed("three nodes, relaxed").relaxed())
            .ask(3, kill())
            .same_table_as(three(killed("")).close(0).close(1).close(2)),
    );
    scripts
}

pub(super) fn stops() -> Vec<Script> {
    let mut scripts = Vec::new();
    for (what, name) in [
        ("a registered name", &b"keeper"[..]),
        ("an unknown name", b"unknown"),
        ("an empty name", b""),
        ("a NUL behind", b"keeper\0"),
        ("two NULs behind", b"keeper\0\0"),
        ("bytes behind a NUL", b"keeper\0junk"),
        ("NUL first", b"\0keeper"),
        ("a host", b"keeper@localhost"),
        ("white space", b"keeper "),
        ("a newline", b"keeper\n"),
        ("invalid UTF-8", b"\xff"),
        ("invalid UTF-8 behind the name", b"keeper\xff"),
        ("invalid UTF-8 behind a NUL", b"keeper\0\xff"),
        ("254 characters", &[b'a'; 254]),
        ("255 characters", &[b'a'; 255]),
        ("256 characters", &[b'a'; 256]),
        ("1020 characters", &[b'a'; 1020]),
        ("1021 characters", &[b'a'; 1021]),
        ("3056 characters", &[b'a'; 3056]),
    ] {
        scripts.push(with_keeper("STOP", what).send(1, stop(name)).ask(2, port_please2("keeper")));
        scripts.push(
            with_keeper("STOP", format!("{what}, relaxed"))
                .relaxed()
                .send(1, stop(name))
                .ask(2, port_please2("keeper")),
        );
    }
    for count in [1, 254, 255] {
        let name = "n".repeat(count);
        scripts.push(
            with_keeper("STOP", format!("a registered name of {count} characters, relaxed"))
                .relaxed()
                .ask(1, alive2(&name, 4001))
                .send(2, stop(&name)),
        );
    }
    scripts.push(
        with_keeper("STOP", "a stopped name comes back, relaxed")
            .relaxed()
            .ask(1, alive2("one", 4001))
            .ask(2, stop("one"))
            .ask(3, alive2("one", 4002))
            .ask(4, stop("one"))
            .ask(5, dump()),
    );
    scripts.push(
        with_keeper("STOP", "an old name, relaxed").relaxed().ask(1, alive2("one", 4001)).close(1).ask(2, stop("one")),
    );
    scripts.push(
        with_keeper("STOP", "one of three, relaxed")
            .relaxed()
            .ask(1, alive2("one", 4001))
            .ask(2, alive2("two", 4002))
            .ask(3, stop("one"))
            .ask(4, names()),
    );
    scripts
}

/// Time-outs in whole seconds; the reference looks at them once a second.
pub(super) fn timeouts() -> Vec<Script> {
    let script = |title: &str| with_keeper("time-out", title).packet_timeout(1);
    let half = Duration::from_millis(500);
    let mut dripping = script("a byte every half second of a request that is never whole");
    for byte in framed(&[b'z'; 3000]).into_iter().take(7) {
        dripping = dripping.send(1, [byte]).pause(half);
    }
    vec![
        script("nothing sent").open(1).closed(1),
        script("a byte sent").send(1, [0]).closed(1),
        script("a header sent").send(1, [0, 1]).closed(1),
        script("a body begun").send(1, request::alive2("one", 4001)[..10].to_vec()).closed(1),
        dripping,
    ]
}

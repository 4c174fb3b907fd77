//! What registrations do to the table: lookups, listings, names that come back, duplicates, ends.

use super::{requests, with_keeper};
use crate::differential::script::Script;
use epmd_tools::request::{alive2, dump, kill, names, port_please2, stop, Alive2};

pub(super) fn port_please2_names() -> Vec<Script> {
    let node = "lookedup";
    let mut names: Vec<(String, Vec<u8>)> = [
        ("registered", "lookedup"),
        ("unknown", "unknown"),
        ("empty", ""),
        ("one NUL alone", "\0"),
        ("two NULs alone", "\0\0"),
        ("one NUL behind", "lookedup\0"),
        ("two NULs behind", "lookedup\0\0"),
        ("NUL in front", "\0lookedup"),
        ("NUL inside", "looked\0up"),
        ("bytes behind a NUL", "lookedup\0x"),
        ("unknown, one NUL behind", "unknown\0"),
        ("with a host", "lookedup@localhost"),
        ("with an empty host", "lookedup@"),
        ("in capitals", "LOOKEDUP"),
        ("a prefix", "looked"),
        ("an extension", "lookedup1"),
        ("a space behind", "lookedup "),
        ("a newline behind", "lookedup\n"),
    ]
    .map(|(title, name)| (title.into(), name.into()))
    .into();
    for (width, char) in [(1, "a"), (2, "é"), (3, "語"), (4, "😀")] {
        for count in [253, 254, 255, 256] {
            names.push((format!("{count} unknown characters of {width} bytes"), char.repeat(count).into()));
            let with_nul = format!("{}\0", char.repeat(count)).into();
            names.push((format!("{count} unknown characters of {width} bytes and a NUL"), with_nul));
        }
    }
    for bytes in [&b"\xff"[..], b"a\x80", b"a\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"lookedup\xff"]
    {
        names.push((format!("invalid UTF-8 {}", bytes.escape_ascii()), bytes.into()));
    }
    let mut scripts: Vec<Script> = names
        .into_iter()
        .map(|(title, name)| {
            with_keeper("PORT_PLEASE2 names", title).ask(1, alive2(node, 4001)).send(2, port_please2(name))
        })
        .collect();
    for (width, char) in [(1, "a"), (4, "😀")] {
        for count in [254, 255] {
            let name = char.repeat(count);
            let with_nul = format!("{name}\0");
            scripts.push(
                with_keeper("PORT_PLEASE2 names", format!("{count} registered characters of {width} bytes and a NUL"))
                    .ask(1, alive2(name, 4001))
                    .send(2, port_please2(with_nul)),
            );
        }
    }
    scripts.push(
        with_keeper("PORT_PLEASE2 names", "a node that has gone")
            .ask(1, alive2(node, 4001))
            .close(1)
            .ask(2, port_please2(node)),
    );
    scripts
}

/// `NAMES` and `DUMP` of active and of old nodes, in their orders; the table after each script is compared anyway.
pub(super) fn listings() -> Vec<Script> {
    let ask_both = |script: Script, first: usize| script.ask(first, names()).ask(first + 1, dump());
    let mut scripts = vec![
        ask_both(Script::new("listing", "an empty table"), 0),
        ask_both(with_keeper("listing", "one node"), 1),
        ask_both(Script::new("listing", "one old node").ask(0, alive2("one", 4001)).close(0), 1),
    ];
    for count in [2, 3, 10, 100] {
        let registered = |script: Script| {
            (0..count).fold(script, |script, number| {
                script.register(number, alive2(format!("node{number}"), 4001 + number as u16))
            })
        };
        let newest_first = registered(Script::new("listing", format!("{count} nodes")));
        scripts.push(ask_both(newest_first, count));
        let oldest_gone = registered(Script::new("listing", format!("{count} nodes, the oldest gone"))).close(0);
        scripts.push(ask_both(oldest_gone, count));
        let newest_gone =
            registered(Script::new("listing", format!("{count} nodes, the newest gone"))).close(count - 1);
        scripts.push(ask_both(newest_gone, count));
        let middle_gone =
            registered(Script::new("listing", format!("{count} nodes, the middle one reset"))).reset(count / 2);
        scripts.push(ask_both(middle_gone, count));
        let all_gone = registered(Script::new("listing", format!("{count} nodes, gone from the last to the first")));
        let all_gone = (0..count).rev().fold(all_gone, Script::close);
        scripts.push(ask_both(all_gone, count));
    }
    let odd_ports = [0, 7, 65535].into_iter().enumerate();
    let odd_ports = odd_ports.fold(Script::new("listing", "ports of one and five digits"), |script, (number, port)| {
        script.ask(number, alive2(format!("port{port}"), port))
    });
    scripts.push(ask_both(odd_ports, 3));
    // The reference remembers 1,001 old names, and makes room when a new name comes, not when one goes.
    // Reset, so that thousands of closed sockets are not left in TIME_WAIT.
    let full = (0..1_001).fold(
        Script::new("listing", "as many old nodes as are remembered, and five that come then"),
        |script, number| script.register(number, alive2(format!("old{number}"), 4001)).reset(number),
    );
    let mut full = ask_both(full, 1_001);
    // The oldest, which is the newest then, one between them, and new ones.
    for (number, name) in ["old0", "old0", "old500", "new1", "new2"].into_iter().enumerate() {
        let first = 1_003 + 3 * number;
        full = ask_both(full.ask(first, alive2(name, 4002)), first + 1).reset(first);
    }
    scripts.push(full);
    let back_and_gone = Script::new("listing", "an old node, and another that comes back 1,001 times")
        .ask(0, alive2("once", 4001))
        .close(0);
    let back_and_gone = (1..=1_001)
        .fold(back_and_gone, |script, number| script.register(number, alive2("often", 4002)).reset(number))
        .ask(1_002, alive2("new", 4003));
    scripts.push(ask_both(back_and_gone, 1_003));
    scripts
}

/// A name that comes back: its creation, and its place in both lists.
pub(super) fn registering_again() -> Vec<Script> {
    let mut scripts = Vec::new();
    for (title, versions) in [
        ("wide", [6, 6, 6, 6, 6]),
        ("narrow", [5, 5, 5, 5, 5]),
        ("wide and narrow", [6, 5, 6, 5, 6]),
        ("narrow and wide", [5, 6, 5, 6, 5]),
        ("wide, then narrow", [6, 6, 5, 5, 5]),
    ] {
        let script = versions.into_iter().enumerate().fold(
            Script::new("again", format!("creations, {title}")),
            |script, (number, highest)| {
                script.ask(number, Alive2 { highest, ..Alive2::new("again", 4001) }.framed()).close(number)
            },
        );
        scripts.push(script);
    }
    for (title, order) in [("oldest", [0, 1, 2]), ("middle", [1, 2, 0]), ("newest", [2, 0, 1])] {
        let three = Script::new("again", format!("the {title} of three comes back"))
            .ask(0, alive2("node0", 4001))
            .ask(1, alive2("node1", 4002))
            .ask(2, alive2("node2", 4003));
        let back = |script: Script, number: usize| script.ask(3, alive2(format!("node{number}"), 5001)).ask(4, dump());
        scripts.push(back(three.clone().close(order[0]), order[0]));
        let all_gone = order.into_iter().fold(three, Script::close);
        scripts.push(back(all_gone, order[0]));
    }
    scripts.push(
        Script::new("again", "an old node keeps its last port")
            .ask(0, alive2("one", 4001))
            .close(0)
            .ask(1, alive2("one", 4002))
            .close(1)
            .ask(2, dump())
            .ask(3, alive2("one", 4003))
            .ask(4, dump()),
    );
    scripts.push(
        Script::new("again", "other fields the second time")
            .ask(0, Alive2 { extra: b"extra".into(), node_type: 104, ..Alive2::new("one", 4001) }.framed())
            .close(0)
            .ask(1, alive2("one", 4002))
            .ask(2, port_please2("one")),
    );
    scripts
}

pub(super) fn duplicates() -> Vec<Script> {
    let mut scripts = Vec::new();
    for highest in [5, 6] {
        for held in [5, 6] {
            scripts.push(
                Script::new("duplicate", format!("version {highest} against the holder's {held}"))
                    .ask(0, Alive2 { highest: held, ..Alive2::new("one", 4001) }.framed())
                    .ask(1, Alive2 { highest, ..Alive2::new("one", 4002) }.framed())
                    .ask(2, port_please2("one"))
                    .close(0)
                    .ask(3, alive2("one", 4003)),
            );
        }
    }
    scripts.push(
        Script::new("duplicate", "the same request three times, then the holder leaves")
            .ask(0, alive2("one", 4001))
            .ask(1, alive2("one", 4001))
            .ask(2, alive2("one", 4001))
            .close(0)
            .ask(3, port_please2("one"))
            .ask(4, alive2("one", 4001)),
    );
    scripts.push(
        Script::new("duplicate", "a refusal does not advance the creation")
            .ask(0, alive2("one", 4001))
            .ask(1, alive2("one", 4002))
            .ask(2, alive2("one", 4002))
            .close(0)
            .ask(3, alive2("one", 4003)),
    );
    for (what, request) in requests() {
        scripts.push(
            with_keeper("duplicate", format!("{what} on a refused connection"))
                .ask(1, alive2("keeper", 4001))
                .send(1, request),
        );
    }
    scripts.push(
        with_keeper("duplicate", "a refused connection half-closed").ask(1, alive2("keeper", 4001)).half_close(1),
    );
    scripts.push(
        with_keeper("duplicate", "byte by byte").dribble(1, &alive2("keeper", 4001)).ask(2, port_please2("keeper")),
    );
    scripts.push(
        with_keeper("duplicate", "names that differ in case, and in form of Unicode, are no duplicates")
            .ask(1, alive2("Keeper", 4001))
            .ask(2, alive2("é", 4002))
            .ask(3, alive2("e\u{301}", 4003)),
    );
    scripts
}

/// Any byte on the connection of a registered node ends the registration.
pub(super) fn after_registration() -> Vec<Script> {
    let mut scripts = Vec::new();
    for (what, bytes) in [
        ("one NUL", vec![0]),
        ("one byte", b"x".to_vec()),
        ("a length", vec![0, 1]),
        ("many bytes", vec![b'a'; 5000]),
        ("ALIVE2 of another name", alive2("other", 4002)),
        ("ALIVE2 of the same name", alive2("one", 4001)),
        ("PORT_PLEASE2", port_please2("one")),
        ("NAMES", names()),
        ("STOP", stop("one")),
        ("KILL", kill()),
    ] {
        scripts.push(
            with_keeper("after registration", what)
                .ask(1, alive2("one", 4001))
                .send(1, bytes)
                .closed(1)
                .ask(2, port_please2("one"))
                .ask(3, alive2("one", 4003)),
        );
    }
    scripts.push(with_keeper("after registration", "silence keeps it").ask(1, alive2("one", 4001)));
    scripts
}

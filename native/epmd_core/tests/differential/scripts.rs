//! The scripts, most of them made from tables. In each script connections are numbered in the order of their requests.

use std::time::Duration;

use crate::script::Script;
use crate::support::request::{
    self, alive2, claiming, dump, framed, kill, names, port_please2, stop, tagged, Alive2, ALIVE2, DUMP, KILL, NAMES,
    PORT_PLEASE2, STOP,
};

/// The requests, each well-formed, by name.
fn requests() -> [(&'static str, Vec<u8>); 6] {
    [
        ("ALIVE2", alive2("one", 4001)),
        ("PORT_PLEASE2", port_please2("one")),
        ("NAMES", names()),
        ("DUMP", dump()),
        // With `keeper` registered, the reply to KILL_REQ is NO.
        ("KILL", kill()),
        ("STOP", stop("one")),
    ]
}

/// A script with a node registered on connection 0, so that the table is not empty.
fn with_keeper(family: &'static str, title: impl Into<String>) -> Script {
    Script::new(family, title).ask(0, alive2("keeper", 4000))
}

pub(crate) fn all() -> Vec<Script> {
    [
        lengths(),
        unfinished(),
        segments(),
        stray_bytes(),
        half_closes(),
        resets(),
        unknown_tags(),
        alive2_lengths(),
        alive2_names(),
        forged_names(),
        alive2_fields(),
        alive2_extra(),
        port_please2_names(),
        padding(),
        listings(),
        registering_again(),
        duplicates(),
        after_registration(),
        kills(),
        stops(),
        timeouts(),
    ]
    .concat()
}

/// Every length around a boundary, with a body of that length behind each tag.
fn lengths() -> Vec<Script> {
    const LENGTHS: [u16; 19] =
        [0, 1, 2, 3, 4, 12, 13, 14, 15, 255, 256, 257, 3056, 3057, 3058, 3059, 3060, 3061, 65535];
    let mut scripts = Vec::new();
    for tag in [ALIVE2, PORT_PLEASE2, NAMES, DUMP, KILL, STOP, b'?', 0] {
        for length in LENGTHS {
            let mut body = vec![b'a'; usize::from(length)];
            if let Some(first) = body.first_mut() {
                *first = tag;
            }
            let title = format!("L = {length}, tag {}", tag.escape_ascii());
            scripts.push(with_keeper("length", title).send(1, claiming(length, &body)));
        }
    }
    for length in [0_u16, 1, 2, 3057, 3058, 65535] {
        scripts.push(with_keeper("length", format!("L = {length} and no body")).send(1, length.to_be_bytes()));
    }
    scripts
}

/// Requests that are never completed, and connections that are left open or half-closed meanwhile.
fn unfinished() -> Vec<Script> {
    let mut scripts = vec![
        with_keeper("unfinished", "nothing, left open").open(1),
        with_keeper("unfinished", "nothing, half-closed").open(1).half_close(1),
        with_keeper("unfinished", "nothing, closed").open(1).close(1),
        with_keeper("unfinished", "nothing, reset").open(1).reset(1),
    ];
    for (name, request) in requests() {
        for cut in [1, 2, request.len() - 1] {
            let title = |how: &str| format!("{name}, {cut} bytes, {how}");
            let part = &request[..cut];
            scripts.push(with_keeper("unfinished", title("left open")).send(1, part));
            scripts.push(with_keeper("unfinished", title("half-closed")).send_and_half_close(1, part));
        }
        let lacking = claiming(request.len() as u16 - 1, &request[2..]);
        scripts.push(with_keeper("unfinished", format!("{name}, one byte short of its length")).send(1, lacking));
    }
    scripts
}

/// The same request, split into segments in different ways.
fn segments() -> Vec<Script> {
    let mut scripts = Vec::new();
    for (name, request) in requests() {
        for cut in 1..request.len() {
            let title = format!("{name} split after {cut}");
            scripts.push(with_keeper("segments", title).send(1, &request[..cut]).send(1, &request[cut..]));
        }
        scripts.push(with_keeper("segments", format!("{name} byte by byte")).dribble(1, &request));
    }
    let big = Alive2 { extra: vec![7; 1020], ..Alive2::new("a".repeat(255), 4001) }.framed();
    scripts.push(
        with_keeper("segments", "a big ALIVE2 in three")
            .send(1, &big[..100])
            .send(1, &big[100..600])
            .send(1, &big[600..]),
    );
    scripts
}

/// Bytes behind a request: in its only segment, in its last segment, and after it.
fn stray_bytes() -> Vec<Script> {
    let mut scripts = Vec::new();
    for (name, request) in requests() {
        let strays = [
            ("a stray byte", vec![0]),
            ("a second request", port_please2("keeper")),
            ("the same request", request.clone()),
        ];
        for (what, stray) in strays {
            let together = [&request[..], &stray].concat();
            let title = |how: &str| format!("{name}, {what} {how}");
            scripts.push(with_keeper("stray bytes", title("in the same segment")).send(1, &together[..]));
            scripts.push(
                with_keeper("stray bytes", title("in the segment after the header"))
                    .send(1, &together[..2])
                    .send(1, &together[2..]),
            );
            scripts.push(
                with_keeper("stray bytes", title("in the segment after one byte"))
                    .send(1, &together[..1])
                    .send(1, &together[1..]),
            );
            scripts.push(
                with_keeper("stray bytes", title("in the last byte's segment"))
                    .send(1, &request[..request.len() - 1])
                    .send(1, [&request[request.len() - 1..], &stray].concat()),
            );
            scripts.push(with_keeper("stray bytes", title("afterwards")).ask(1, &request[..]).send(1, stray));
        }
    }
    scripts
}

fn half_closes() -> Vec<Script> {
    let mut scripts = Vec::new();
    for (name, request) in requests() {
        let title = |when: &str| format!("{name}, half-closed {when}");
        let (header, body) = request.split_at(2);
        scripts.push(with_keeper("half-close", title("with the last byte")).send_and_half_close(1, &request[..]));
        scripts.push(with_keeper("half-close", title("with the body")).send(1, header).send_and_half_close(1, body));
        scripts.push(with_keeper("half-close", title("after the reply")).ask(1, &request[..]).half_close(1));
        scripts.push(with_keeper("half-close", title("after the header")).send(1, header).half_close(1));
    }
    scripts.push(
        Script::new("half-close", "a half-closed registration frees its name")
            .ask(0, alive2("one", 4001))
            .half_close(0)
            .closed(0)
            .ask(1, alive2("one", 4002)),
    );
    scripts
}

fn resets() -> Vec<Script> {
    let mut scripts = Vec::new();
    for (name, request) in requests() {
        let title = |when: &str| format!("{name}, reset {when}");
        scripts.push(with_keeper("reset", title("after one byte")).send(1, &request[..1]).reset(1));
        scripts.push(with_keeper("reset", title("after the header")).send(1, &request[..2]).reset(1));
        scripts
            .push(with_keeper("reset", title("before the last byte")).send(1, &request[..request.len() - 1]).reset(1));
        scripts.push(with_keeper("reset", title("after the reply")).ask(1, &request[..]).reset(1));
    }
    scripts.push(
        Script::new("reset", "a reset registration frees its name")
            .ask(0, alive2("one", 4001))
            .reset(0)
            .ask(1, alive2("one", 4002)),
    );
    scripts.push(
        Script::new("reset", "a refused registration reset after the reply leaves the holder")
            .ask(0, alive2("one", 4001))
            .ask(1, alive2("one", 4002))
            .reset(1)
            .ask(2, port_please2("one")),
    );
    scripts
}

/// All 256 tags, sixteen to a script; each tag alone and, in a second script, in front of a plausible body.
fn unknown_tags() -> Vec<Script> {
    let known = [ALIVE2, PORT_PLEASE2, NAMES, DUMP, KILL, STOP];
    let mut scripts = Vec::new();
    for row in 0..16_u8 {
        let tags: Vec<u8> = (row * 16..=row * 16 + 15).filter(|tag| !known.contains(tag)).collect();
        let title = |how: &str| format!("tags {:#04x} to {:#04x} {how}", row * 16, row * 16 + 15);
        let mut alone = with_keeper("unknown tag", title("alone"));
        let mut before_a_body = with_keeper("unknown tag", title("before a body"));
        for (number, tag) in tags.into_iter().enumerate() {
            let mut body = Alive2::new("one", 4001).body();
            body[0] = tag;
            alone = alone.send(number + 1, framed(&[tag]));
            before_a_body = before_a_body.send(number + 1, framed(&body));
        }
        scripts.extend([alone, before_a_body]);
    }
    for tag in known {
        scripts.push(
            with_keeper("unknown tag", format!("tag {} alone is no unknown tag", tag.escape_ascii()))
                .send(1, framed(&[tag])),
        );
    }
    scripts
}

/// Length fields that differ from the actual lengths.
fn alive2_lengths() -> Vec<Script> {
    let mut scripts = Vec::new();
    for name_length in [0, 1, 2, 3, 4, 5, 6, 7, 255, 256, 1020, 1021, 3043, 3044, 65535] {
        let request = Alive2 { name_length: Some(name_length), ..Alive2::new("abc", 4001) };
        scripts.push(with_keeper("ALIVE2 lengths", format!("Nlen {name_length} of 3")).send(1, request.framed()));
    }
    for extra_length in [0, 1, 2, 3, 4, 1020, 1021, 65535] {
        let request = Alive2 { extra_length: Some(extra_length), extra: b"xyz".into(), ..Alive2::new("abc", 4001) };
        scripts.push(with_keeper("ALIVE2 lengths", format!("Elen {extra_length} of 3")).send(1, request.framed()));
    }
    for name in [1, 2, 254, 255, 256, 1020, 1021] {
        for extra in [0, 1, 1020, 1021] {
            let request = Alive2 { extra: vec![b'e'; extra], ..Alive2::new("n".repeat(name), 4001) };
            scripts.push(with_keeper("ALIVE2 lengths", format!("Nlen {name}, Elen {extra}")).send(1, request.framed()));
        }
    }
    for (name_length, extra_length) in [(65535, 65535), (65535, 0), (0, 65535), (65530, 10), (65523, 0), (3, 65530)] {
        let request =
            Alive2 { name_length: Some(name_length), extra_length: Some(extra_length), ..Alive2::new("abc", 4001) };
        let title = format!("Nlen {name_length} and Elen {extra_length} of nothing");
        scripts.push(with_keeper("ALIVE2 lengths", title).send(1, request.framed()));
    }
    for missing in 1..=13 {
        let whole = Alive2::new("abc", 4001).body();
        let title = format!("{missing} bytes cut off");
        scripts.push(with_keeper("ALIVE2 lengths", title).send(1, framed(&whole[..whole.len() - missing])));
    }
    for trailing in [1, 2, 3, 100, 2000] {
        let request = Alive2 { trailing: vec![b't'; trailing], ..Alive2::new("abc", 4001) };
        scripts.push(
            with_keeper("ALIVE2 lengths", format!("{trailing} bytes of junk behind the last field"))
                .ask(1, request.framed())
                .ask(2, port_please2("abc")),
        );
    }
    scripts
}

/// What a name may consist of. Each is looked up too.
fn alive2_names() -> Vec<Script> {
    let mut scripts = Vec::new();
    let mut name = |title: String, name: &[u8]| {
        let looked_up = port_please2(name);
        scripts.push(with_keeper("ALIVE2 names", title).ask(1, alive2(name, 4001)).send(2, looked_up));
    };
    for (width, char) in [(1, "a"), (2, "é"), (3, "語"), (4, "😀")] {
        for count in [1, 253, 254, 255, 256] {
            name(format!("{count} characters of {width} bytes"), char.repeat(count).as_bytes());
        }
    }
    for ascii in ["@", "a@b", ".", "-", "_", "<", ">", "\"", "\\", "%s%n", "(", ",", "~", "A", "0"] {
        name(format!("the name {ascii}"), ascii.as_bytes());
    }
    for (what, bytes) in [
        ("NUL alone", &b"\0"[..]),
        ("NUL first", b"\0ab"),
        ("NUL in the middle", b"a\0b"),
        ("NUL last", b"ab\0"),
        ("two NULs last", b"ab\0\0"),
        ("a lone continuation byte", b"a\x80"),
        ("a lone first byte of two", b"a\xc3"),
        ("a lone first byte of three", b"a\xe8\xaa"),
        ("a lone first byte of four", b"a\xf0\x9f\x98"),
        ("a continuation byte missing", b"\xc3a"),
        ("overlong of two", b"a\xc0\x80"),
        ("overlong of two, c1", b"a\xc1\xbf"),
        ("overlong of three", b"a\xe0\x80\xaf"),
        ("overlong of four", b"a\xf0\x80\x80\xaf"),
        ("a low surrogate", b"a\xed\xa0\x80"),
        ("a high surrogate", b"a\xed\xbf\xbf"),
        ("beyond U+10FFFF", b"a\xf4\x90\x80\x80"),
        ("a first byte f5", b"a\xf5\x80\x80\x80"),
        ("fe", b"a\xfe"),
        ("ff", b"\xff"),
        ("U+10FFFF", b"a\xf4\x8f\xbf\xbf"),
        ("U+FFFF", b"a\xef\xbf\xbf"),
        ("U+FFFD", b"a\xef\xbf\xbd"),
        ("U+FEFF, a byte order mark", b"\xef\xbb\xbfa"),
        ("U+200B, which is no white space", b"a\xe2\x80\x8bb"),
        ("U+202E, which is no control character", b"a\xe2\x80\xaeb"),
        ("a combining character", b"e\xcc\x81"),
    ] {
        name(what.into(), bytes);
    }
    scripts
}

/// Names that would forge lines in a listing or in a log.
fn forged_names() -> Vec<Script> {
    let mut scripts = Vec::new();
    let mut chars: Vec<char> = ('\u{1}'..='\u{20}').chain('\u{7f}'..='\u{a0}').collect();
    chars.extend(['\u{1680}', '\u{2003}', '\u{2028}', '\u{2029}', '\u{202f}', '\u{205f}', '\u{3000}']);
    for chars in chars.chunks(8) {
        let title = format!("names with {:?} to {:?}", chars[0], chars[chars.len() - 1]);
        let script = with_keeper("forged names", title);
        let script = chars.iter().enumerate().fold(script, |script, (number, char)| {
            script.ask(number + 1, alive2(format!("a{char}{number}"), 4001 + number as u16))
        });
        scripts.push(script);
    }
    for name in ["", " ", "\n", " a", "a ", "a b", "a at port 1\nname b"] {
        let request = Alive2 { trailing: vec![0], ..Alive2::new(name, 4001) };
        scripts.push(with_keeper("forged names", format!("the name {name:?}")).ask(1, request.framed()));
        let older = Alive2 { highest: 5, trailing: vec![0], ..Alive2::new(name, 4001) };
        scripts.push(with_keeper("forged names", format!("the name {name:?} of an older node")).ask(1, older.framed()));
    }
    scripts.push(with_keeper("forged names", "an empty name without a byte to spare").send(1, alive2("", 4001)));
    scripts.push(
        with_keeper("forged names", "an empty name with extra")
            .ask(1, Alive2 { extra: b"extra".into(), ..Alive2::new("", 4001) }.framed()),
    );
    for name in [" ", "a b", "a\n"] {
        scripts.push(with_keeper("forged names", format!("a look-up of {name:?}")).send(1, port_please2(name)));
    }
    scripts
}

/// Fields that are not checked come back unchanged. Only the highest version selects the form of the reply.
fn alive2_fields() -> Vec<Script> {
    let mut scripts = Vec::new();
    let mut fields = |title: String, request: &Alive2| {
        scripts.push(
            with_keeper("ALIVE2 fields", title)
                .ask(1, request.framed())
                .ask(2, port_please2(&request.name))
                .ask(3, request.framed())
                .close(1)
                .ask(4, request.framed()),
        );
    };
    let plain = Alive2::new("one", 4001);
    for highest in 0..=7 {
        for lowest in [0, 5, 6, 7] {
            fields(format!("versions {lowest} to {highest}"), &Alive2 { highest, lowest, ..plain.clone() });
        }
    }
    for (highest, lowest) in [(9, 0), (0, 9), (255, 255), (256, 5), (261, 5), (65535, 65535), (32768, 0)] {
        fields(format!("versions {lowest} to {highest}"), &Alive2 { highest, lowest, ..plain.clone() });
    }
    for node_type in [0, 1, 72, 77, 104, 110, 255] {
        fields(format!("node type {node_type}"), &Alive2 { node_type, ..plain.clone() });
    }
    for protocol in [1, 2, 77, 255] {
        fields(format!("protocol {protocol}"), &Alive2 { protocol, ..plain.clone() });
    }
    for port in [0, 1, 255, 256, 4369, 32768, 65535] {
        fields(format!("port {port}"), &Alive2 { port, ..plain.clone() });
    }
    scripts
}

fn alive2_extra() -> Vec<Script> {
    let extras: [(&str, Vec<u8>); 9] = [
        ("one byte", vec![1]),
        ("one NUL", vec![0]),
        ("NULs", vec![0; 20]),
        ("NUL last", b"abc\0".into()),
        ("all bytes", (0..=255).collect()),
        ("bytes that are no UTF-8", vec![0xff; 7]),
        ("1019 bytes", vec![b'e'; 1019]),
        ("1020 bytes", vec![b'e'; 1020]),
        ("1021 bytes", vec![b'e'; 1021]),
    ];
    let scripts = extras.into_iter().map(|(title, extra)| {
        with_keeper("ALIVE2 extra", title)
            .ask(1, Alive2 { extra, ..Alive2::new("one", 4001) }.framed())
            .ask(2, port_please2("one"))
    });
    scripts.collect()
}

fn port_please2_names() -> Vec<Script> {
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

/// Bytes behind a tag that needs none.
fn padding() -> Vec<Script> {
    let mut scripts = Vec::new();
    for (what, tag) in [("NAMES", NAMES), ("DUMP", DUMP), ("KILL", KILL)] {
        for length in [1, 2, 13, 1000, 3056] {
            for filler in [0, b'x', 0xff] {
                let title = format!("{what}, {length} bytes {filler:#04x} behind the tag");
                scripts.push(
                    with_keeper("padding", title).send(1, tagged(tag, &vec![filler; usize::from(length as u16)])),
                );
            }
        }
    }
    scripts
}

/// `NAMES` and `DUMP` of active and of old nodes, in their orders; the table after each script is compared anyway.
fn listings() -> Vec<Script> {
    let ask_both = |script: Script, first: usize| script.ask(first, names()).ask(first + 1, dump());
    let mut scripts = vec![
        ask_both(Script::new("listing", "an empty table"), 0),
        ask_both(with_keeper("listing", "one node"), 1),
        ask_both(Script::new("listing", "one old node").ask(0, alive2("one", 4001)).close(0), 1),
    ];
    for count in [2, 3, 10, 100] {
        let registered = |script: Script| {
            (0..count).fold(script, |script, number| {
                script.ask(number, alive2(format!("node{number}"), 4001 + number as u16))
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
    let old = |title: &str, count: usize| {
        (0..count).fold(Script::new("listing", title), |script, number| {
            script.ask(number, alive2(format!("old{number}"), 4001)).reset(number)
        })
    };
    scripts.push(ask_both(old("as many old nodes as are remembered", 1_001), 1_001));
    scripts.push(ask_both(old("more old nodes than are remembered", 1_005), 1_005));
    let back_and_gone = Script::new("listing", "an old node, and another that comes back 1,001 times")
        .ask(0, alive2("once", 4001))
        .close(0);
    let back_and_gone = (1..=1_001)
        .fold(back_and_gone, |script, number| script.ask(number, alive2("often", 4002)).reset(number))
        .ask(1_002, alive2("new", 4003));
    scripts.push(ask_both(back_and_gone, 1_003));
    for (title, name) in [("a new node", "new"), ("the oldest back", "old0"), ("the newest back", "old1000")] {
        let full = old(&format!("as many old nodes as are remembered, and {title}"), 1_001);
        scripts.push(ask_both(full.ask(1_001, alive2(name, 4002)), 1_002));
    }
    scripts
}

/// A name that comes back: its creation, and its place in both lists.
fn registering_again() -> Vec<Script> {
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

fn duplicates() -> Vec<Script> {
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
fn after_registration() -> Vec<Script> {
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

fn kills() -> Vec<Script> {
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

fn stops() -> Vec<Script> {
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
fn timeouts() -> Vec<Script> {
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

//! `ALIVE2_REQ`: its lengths, names and fields.

use super::with_keeper;
use crate::differential::script::Script;
use epmd_tools::request::{alive2, framed, port_please2, Alive2};

/// Length fields that differ from the actual lengths.
pub(super) fn alive2_lengths() -> Vec<Script> {
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
pub(super) fn alive2_names() -> Vec<Script> {
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
pub(super) fn forged_names() -> Vec<Script> {
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
        scripts.push(with_keeper("forged names", format!("a lookup of {name:?}")).send(1, port_please2(name)));
    }
    scripts
}

/// Fields that are not checked come back unchanged. Only the highest version selects the form of the reply.
pub(super) fn alive2_fields() -> Vec<Script> {
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

pub(super) fn alive2_extra() -> Vec<Script> {
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

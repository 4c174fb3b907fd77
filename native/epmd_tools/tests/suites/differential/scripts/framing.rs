//! Requests as bytes on a connection: lengths, segments, stray bytes, ends, tags.

use super::{requests, with_keeper};
use crate::differential::script::Script;
use epmd_tools::request::{
    alive2, claiming, framed, port_please2, tagged, Alive2, ALIVE2, DUMP, KILL, NAMES, PORT_PLEASE2, STOP,
};

/// Every length around a boundary, with a body of that length behind each tag.
pub(super) fn lengths() -> Vec<Script> {
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
pub(super) fn unfinished() -> Vec<Script> {
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
pub(super) fn segments() -> Vec<Script> {
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
pub(super) fn stray_bytes() -> Vec<Script> {
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

pub(super) fn half_closes() -> Vec<Script> {
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

pub(super) fn resets() -> Vec<Script> {
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
pub(super) fn unknown_tags() -> Vec<Script> {
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

/// Bytes behind a tag that needs none.
pub(super) fn padding() -> Vec<Script> {
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

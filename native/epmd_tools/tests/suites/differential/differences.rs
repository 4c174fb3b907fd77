//! The deliberate differences, by name. Each turns what the reference did into what ours must do.

use crate::differential::observation::{Creation, Observation, Reply, Table};
use crate::differential::script::Script;
use epmd_tools::client::End;
use epmd_tools::request::{Alive2, PORT_PLEASE2};

/// A deliberate difference from the reference.
#[derive(Debug)]
pub(crate) struct Difference {
    pub name: &'static str,
    /// The first OTP release in which the reference may do what ours does.
    pub cured_in: Option<u32>,
    /// Turns what the reference did into what ours must do. Changes nothing if the difference does not apply.
    apply: fn(&Script, Option<&Observation>, &mut Observation),
}

pub(crate) const DIFFERENCES: &[Difference] = &[
    Difference {
        name: "an empty name, white space and control characters are refused",
        cured_in: None,
        apply: refuse_names_that_forge_lines,
    },
    Difference { name: "a refused registration is closed", cured_in: None, apply: close_refused_registrations },
    Difference { name: "a name of 255 characters is found", cured_in: None, apply: find_names_of_255_characters },
    Difference { name: "KILL does not end the server", cured_in: None, apply: survive_kill },
    Difference { name: "a byte does not renew the time-out", cured_in: Some(26), apply: keep_one_deadline },
];

/// What ours must do, and the names of the differences that apply.
pub(crate) fn expected_of_ours(
    script: &Script,
    reference: &Observation,
    same_table: Option<&Observation>,
) -> (Observation, Vec<&'static str>) {
    let mut expected = reference.clone();
    let mut names = Vec::new();
    for difference in DIFFERENCES {
        let before = expected.clone();
        (difference.apply)(script, same_table, &mut expected);
        if expected != before {
            names.push(difference.name);
        }
    }
    (expected, names)
}

fn refuse_names_that_forge_lines(script: &Script, _: Option<&Observation>, expected: &mut Observation) {
    let forged: Vec<(usize, Alive2)> = expected
        .connections
        .keys()
        .filter_map(|connection| Some((*connection, Alive2::parse(&script.sent(*connection))?)))
        .filter(|(_, request)| forges_lines(&request.name))
        .collect();
    for (connection, request) in forged {
        let heard = expected.connections.get_mut(&connection).expect("a key just read");
        let Reply::Registration { result, creation, .. } = &mut heard.reply else {
            continue;
        };
        *result = 1;
        *creation = Creation::Exactly(99);
        for table in [&mut expected.during, &mut expected.after] {
            table.forget(&request);
        }
    }
}

fn forges_lines(name: &[u8]) -> bool {
    match std::str::from_utf8(name) {
        Ok(name) => name.is_empty() || name.chars().any(|char| char.is_whitespace() || char.is_control()),
        Err(_) => false,
    }
}

fn close_refused_registrations(_: &Script, _: Option<&Observation>, expected: &mut Observation) {
    for heard in expected.connections.values_mut() {
        let refused = matches!(heard.reply, Reply::Registration { result: 1, .. });
        if refused && heard.end == End::KeptOpen {
            heard.end = End::ClosedByServer;
        }
    }
}

fn find_names_of_255_characters(script: &Script, _: Option<&Observation>, expected: &mut Observation) {
    let registered: Vec<Alive2> = expected
        .connections
        .iter()
        .filter(|(_, heard)| matches!(heard.reply, Reply::Registration { result: 0, .. }))
        .filter_map(|(connection, _)| Alive2::parse(&script.sent(*connection)))
        .collect();
    for (connection, heard) in &mut expected.connections {
        let Some(name) = looked_up(&script.sent(*connection)) else {
            continue;
        };
        let is_longest = std::str::from_utf8(&name).is_ok_and(|name| name.chars().count() == 255);
        if is_longest && heard.reply == Reply::Nothing {
            let found = registered.iter().find(|request| request.name == name);
            heard.reply = Reply::Bytes(found.map_or(b"w\x01".to_vec(), Alive2::found));
        }
    }
}

/// The name in a `PORT_PLEASE2_REQ`, without the NUL that may end it.
fn looked_up(sent: &[u8]) -> Option<Vec<u8>> {
    let name = sent.get(2..)?.strip_prefix(&[PORT_PLEASE2])?;
    Some(name.strip_suffix(&[0]).unwrap_or(name).to_vec())
}

fn survive_kill(_: &Script, same_table: Option<&Observation>, expected: &mut Observation) {
    if expected.during == Table::Gone {
        let same_table = same_table.expect("a script that ends the reference says what table ours has then");
        expected.during = same_table.during.clone();
        expected.after = same_table.after.clone();
    }
}

fn keep_one_deadline(script: &Script, _: Option<&Observation>, expected: &mut Observation) {
    if script.packet_timeout.is_none() {
        return;
    }
    for heard in expected.connections.values_mut() {
        if heard.reply == Reply::Nothing && heard.end == End::KeptOpen {
            heard.end = End::ClosedByServer;
        }
    }
}

impl Table {
    /// Removes every line of a node that must not have been registered.
    fn forget(&mut self, request: &Alive2) {
        let Self::Listed { names, dump } = self else {
            return;
        };
        let (name, port) = (&request.name[..], request.port.to_string());
        remove(names, &[b"name ", name, b" at port ", port.as_bytes(), b"\n"].concat());
        remove(dump, &[b"active name     <", name, b"> at port ", port.as_bytes(), b", fd = #\n\0"].concat());
        remove(dump, &[b"old/unused name <", name, b">, port = ", port.as_bytes(), b", fd = # \n\0"].concat());
    }
}

fn remove(text: &mut Vec<u8>, line: &[u8]) {
    if let Some(at) = text.windows(line.len()).position(|window| window == line) {
        text.drain(at..at + line.len());
    }
}

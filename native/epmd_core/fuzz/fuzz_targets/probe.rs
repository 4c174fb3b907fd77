//! Any bytes to the decoder of probes over HTTP, in pieces of one byte more each time, as a server may get them. What the
//! first outcome is does not change with the bytes that follow, and there is one at the latest when the longest head has
//! come. The response to what is not there is one of HTTP, and says how long it is.

#![no_main]

use epmd_core::fuzzing::{asked, LONGEST_HEAD};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let outcome = asked(bytes);
    let first = (0..=bytes.len()).find_map(|end| asked(&bytes[..end]));
    assert_eq!(first, outcome);
    assert!(outcome.is_some() || bytes.len() < LONGEST_HEAD);
    if let Some(Err(response)) = outcome {
        let text = String::from_utf8(response).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 4") && head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())));
        assert_eq!((body.lines().count(), body.ends_with('\n')), (1, true), "it is one line: {body:?}");
    }
});

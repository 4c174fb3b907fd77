//! Access to the decoder of probes for the fuzz targets only.

use super::http::{self, MAX_HEAD};

/// What the head of an HTTP request asks for, as text, or the response to one that asks for nothing there is; `None` while
/// it is not whole.
pub fn asked(head: &[u8]) -> Option<Result<String, Vec<u8>>> {
    match http::decode(head) {
        Ok(asked) => asked.map(|asked| Ok(format!("{asked:?}"))),
        Err(response) => Some(Err(response.encode())),
    }
}

/// The longest head that is waited for.
pub const LONGEST_HEAD: usize = MAX_HEAD;

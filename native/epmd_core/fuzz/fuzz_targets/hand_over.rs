//! Any bytes to the decoder of the handover's messages. A decoded message is encoded again, and must then decode to
//! the same.

#![no_main]

use epmd_core::fuzzing::encoded_again;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(once) = encoded_again(bytes) {
        assert_eq!(encoded_again(&once).as_ref(), Some(&once));
    }
});

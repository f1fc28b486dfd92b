//! Arbitrary bytes as an MQTT client's side of a connection, of any version.

#![no_main]
#![allow(dead_code, unused_imports, reason = "the linked codec also writes, which is not driven here")]

mod codec;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _packets = codec::fuzz(bytes);
});

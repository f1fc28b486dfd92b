//! Arbitrary bytes as an AMQP client's side of a conversation.

#![no_main]
#![allow(dead_code, unused_imports, reason = "the linked codec also writes, which is not driven here")]

mod codec;

use libfuzzer_sys::fuzz_target;

const FRAME_MAX: usize = 128 << 10;

fuzz_target!(|bytes: &[u8]| {
    let _frames = codec::walk(bytes, FRAME_MAX);
});

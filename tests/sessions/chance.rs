//! What chance decides, alike for every protocol.

use fastrand::Rng;

/// Numbers at which something ends or begins.
const EDGES: [u64; 12] = [
    0,
    1,
    2,
    255,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x0100_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// True once in so many times.
pub fn once_in(random: &mut Rng, times: u32) -> bool {
    random.u32(..times) == 0
}

pub fn one_of<T: Copy>(random: &mut Rng, all: &[T]) -> T {
    all[random.usize(..all.len())]
}

/// A number that something ends at, or any.
pub fn edge(random: &mut Rng) -> u64 {
    if random.bool() { one_of(random, &EDGES) } else { random.u64(..) >> random.u32(..64) }
}

/// Damages bytes in one way: some bits, a piece cut out, a piece put in, or the end cut off.
pub fn damage(random: &mut Rng, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return bytes.push(random.u8(..));
    }
    let at = random.usize(..bytes.len());
    match random.u8(..8) {
        0..4 => bytes[at] ^= 1 << random.u8(..8),
        4 => bytes[at] = one_of(random, &[0, 1, 0x7f, 0x80, 0xfe, 0xff]),
        5 => bytes.truncate(at),
        6 => {
            let end = (at + random.usize(1..8)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => {
            let piece: Vec<u8> = (0..random.usize(1..8)).map(|_| random.u8(..)).collect();
            bytes.splice(at..at, piece);
        }
    }
}

/// Bytes as they may arrive: all at once, in a few pieces, or one by one.
pub fn pieces(random: &mut Rng, bytes: &[u8]) -> Vec<Vec<u8>> {
    let most = match random.u8(..16) {
        0 if bytes.len() < 2000 => 1,
        1..4 => random.usize(1..500),
        _ => bytes.len().max(1),
    };
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, others) = rest.split_at(random.usize(1..=most).min(rest.len()));
        pieces.push(piece.to_vec());
        rest = others;
    }
    pieces
}

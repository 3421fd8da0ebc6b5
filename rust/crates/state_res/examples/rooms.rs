//! Print generated rooms, one JSON object a line, for those who resolve them with other programs.
//!
//!     cargo run -p state_res --example rooms -- small VERSION FIRST_SEED COUNT
//!     cargo run -p state_res --example rooms -- large VERSION SEED CONFLICTED_EVENTS
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a generator")]

#[path = "../tests/generator/mod.rs"]
mod generator;

use std::io::{BufWriter, Write, stdout};

use canonical::RoomVersion;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, version, seed, number] = arguments.as_slice() else {
        eprintln!("arguments: small VERSION FIRST_SEED COUNT, or large VERSION SEED CONFLICTED_EVENTS");
        std::process::exit(2);
    };
    let version = RoomVersion::find(version).unwrap();
    let (seed, number): (u64, usize) = (seed.parse().unwrap(), number.parse().unwrap());
    let mut out = BufWriter::new(stdout().lock());
    if kind == "large" {
        writeln!(out, "{}", generator::large_room(seed, version, number).to_json()).unwrap();
    } else {
        for seed in seed..seed + number as u64 {
            writeln!(out, "{}", generator::small_room(seed, version).to_json()).unwrap();
        }
    }
}

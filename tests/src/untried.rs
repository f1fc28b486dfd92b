//! A test that this machine cannot try: said where it is seen, and a failure where it is demanded.

use std::{
    env,
    io::{self, Write},
};

/// With this set, as `make power` does, a disk of the test's own has to be there.
const DEMANDED: &str = "MAINSTEM_POWER";

/// Says that a test needs a disk that cannot be had here, and why. Panics where it is demanded.
pub(crate) fn without_disk(why: &str) {
    assert!(env::var_os(DEMANDED).is_none(), "{DEMANDED} is set, and {why}");
    say(&format!("not tried on this machine: {why}"));
}

/// Says a line past the harness, which shows what a test prints only when it fails.
pub fn say(line: &str) {
    writeln!(io::stderr(), "{line}").expect("somewhere to write to");
}

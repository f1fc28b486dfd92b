//! mainstem-benches

//! What each queue holds.

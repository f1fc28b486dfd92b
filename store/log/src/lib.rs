//! mainstem-log

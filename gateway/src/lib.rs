//! mainstem

//! mainstem-mqtt

//! mainstem-rocketmq

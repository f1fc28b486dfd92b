//! The whole server, from outside: how it starts and ends, what it keeps, whom it throws out.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints what it counted"
)]

#[path = "e2e/amqp_errors.rs"]
mod amqp_errors;
#[path = "e2e/amqp_queues.rs"]
mod amqp_queues;
#[path = "e2e/amqps.rs"]
mod amqps;
#[path = "e2e/cloudevents.rs"]
mod cloud_events;
#[path = "e2e/commands.rs"]
mod commands;
#[path = "e2e/connections.rs"]
mod connections;
#[path = "e2e/dashboards.rs"]
mod dashboards;
#[path = "e2e/faults.rs"]
mod faults;
#[path = "e2e/hostile.rs"]
mod hostile;
#[path = "e2e/https.rs"]
mod https;
#[path = "e2e/index_rebuild.rs"]
mod index_rebuild;
#[path = "e2e/log_command.rs"]
mod log_command;
#[path = "e2e/management.rs"]
mod management;
#[path = "e2e/metrics.rs"]
mod metrics;
#[path = "e2e/mqtt.rs"]
mod mqtt;
#[path = "e2e/mqtt_exactly_once.rs"]
mod mqtt_exactly_once;
#[path = "e2e/mqtt_limits.rs"]
mod mqtt_limits;
#[path = "e2e/mqtt_websocket.rs"]
mod mqtt_websocket;
#[path = "e2e/mqtt_wills.rs"]
mod mqtt_wills;
#[path = "e2e/mqtts.rs"]
mod mqtts;
#[path = "e2e/one_body.rs"]
mod one_body;
#[path = "e2e/policies.rs"]
mod policies;
#[path = "e2e/rabbitmqctl.rs"]
mod rabbitmqctl;
#[path = "e2e/reload.rs"]
mod reload;
#[path = "e2e/rocketmq_admin.rs"]
mod rocketmq_admin;
#[path = "e2e/rocketmq_lite.rs"]
mod rocketmq_lite;
#[path = "e2e/start_and_stop.rs"]
mod start_and_stop;
#[path = "e2e/statistics.rs"]
mod statistics;
#[path = "e2e/tokens.rs"]
mod tokens;

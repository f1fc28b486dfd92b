//! mainstem-amqp

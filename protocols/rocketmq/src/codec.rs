//! The wire: generated messages, what the headers say, receipt and recall handles, and which names are legal.

pub mod handle;
pub mod header;
pub mod names;
pub mod recall;
pub mod status;

/// The messages and the service of `apache.rocketmq.v2`, generated from `schemas/proto`.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::str_to_string,
    clippy::use_self,
    clippy::or_fun_call,
    clippy::too_many_lines,
    unused_qualifications,
    unreachable_pub,
    rust_2018_idioms,
    missing_docs,
    reason = "generated code"
)]
pub mod proto {
    tonic::include_proto!("apache.rocketmq.v2");
}

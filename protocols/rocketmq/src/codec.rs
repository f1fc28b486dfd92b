//! The wire: generated messages, what the headers say, receipt and recall handles, and which names are legal.

pub mod handle;
pub mod header;
pub mod names;
pub mod recall;
pub mod status;

pub use generated::{apache::rocketmq::v2 as proto, mainstem::v1 as operator};

/// The messages and services of `schemas/proto`, in modules that are named as their packages.
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
mod generated {
    pub mod apache {
        pub mod rocketmq {
            pub mod v2 {
                tonic::include_proto!("apache.rocketmq.v2");
            }
        }
    }

    pub mod mainstem {
        pub mod v1 {
            tonic::include_proto!("mainstem.v1");
        }
    }
}

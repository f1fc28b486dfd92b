//! The one door of the store: [`Broker::login`] gives a [`Client`], which publishes, declares,
//! binds, consumes and settles.
//!
//! Reading order: [`client`] is what a front-end calls; [`command`] is what those calls send to
//! the commit thread; `commit` owns all state and is the only writer of the log.

pub mod admin;
pub mod client;
pub mod command;
pub mod config;
pub mod error;
pub mod inbox;
pub mod listing;
pub mod meter;

mod open;

mod commit;
mod pipeline;

mod state;

mod cursor;
mod exchange;
mod few;
mod hands;
mod lane;
mod member;
mod namespace;
pub mod parcel;
pub mod passage;
pub mod policy;
mod queue;
mod ranges;
pub mod roll;
pub mod rules;
mod schedule;
mod stages;
mod tail;
mod trie;
pub mod usage;
mod wanted;

mod entry;

#[cfg(test)]
mod sim;

pub mod describe;
pub mod survey;

pub use client::{
    Act, AllRights, Authenticator, Broker, Challenge, Client, Office, Receipt, Rights, Unsettled,
};
pub use command::{
    Bind, BranchTerms, Claim, Consume, DeclareExchange, DeclareQueue, Declared, ExchangeDef,
    ExchangeKind, Fetch, GroupRef, HeldId, HeldPlace, Keeps, Moved, OpenSession, Publish,
    Published, Pull, QueueDef, QueueStats, Retention, Ruled, SessionOpened, Sought, Source, Stamp,
    Start, Subscribe, Subscribed, Subscription, Terms, TopicTerms, session_writer,
};
pub use config::{AwayBounds, Config, Drops};
pub use error::{LoginError, OpenError, Refusal};
pub use inbox::{Delivery, Inbox, Notice};
pub use listing::{
    BindingPlace, BindingsOf, ExchangeShown, GroupPlace, GroupShown, GroupsOf, Page, QueueCounts,
    QueueShown, TopicShown,
};
pub use meter::{Count, Did, Traffic};
pub use open::now;
pub use parcel::Parcel;
pub use passage::{Death, Passage, Reason};
pub use policy::{DeadLetter, DeliveryPolicy, Overflow, Policy, attempts_max, keeps_dead};
pub use roll::{Call, Introduction, Line};
pub use rules::{ApplyTo, Authority, Rule, age_ms};
pub use usage::{Bounded, Entered, Over, Scope};

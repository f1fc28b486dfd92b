//! Sessions that come, go and subscribe.

use mainstem_schemas::Filter;
use tokio::sync::oneshot;

use super::{Game, Wait};
use crate::{
    command::{Command, OpenSession, Subscribe},
    policy::Policy,
    sim::{
        model::{Kind, Reader},
        world::now,
    },
};

const FILTERS: [&str; 5] = ["t0/#", "t0/a", "+/b", "#", "x0/#"];
const SESSIONS: [&str; 3] = ["s0", "s1", "s2"];

impl Game {
    /// The session that ends with its connection does.
    pub(super) fn end_short_session(&mut self) {
        for at in self.model.subscriptions("s2") {
            self.model.readers[at].is_gone = true;
        }
    }

    pub(super) fn open_session(&mut self) {
        let client = self.client();
        let at = self.peers.iter().position(|peer| peer.id == client).unwrap();
        if self.peers[at].session.is_some() {
            return;
        }
        let id = self.rng.choice(SESSIONS).unwrap().to_owned();
        self.peers[at].session = Some(id.clone());
        let clean = self.rng.u8(..10) == 0;
        let expiry_s = if id == "s2" { 0 } else { u32::MAX };
        for other in self.peers.iter_mut().filter(|other| other.id != client) {
            if other.session.as_deref() == Some(&id) {
                other.session = None;
                other.consumers.retain(|(consumer, _)| consumer.0 >> 63 == 0);
            }
        }
        for at in self.model.subscriptions(&id) {
            self.model.forgive_returns(at);
            self.forget_hands(|hand| hand.reader == at);
            self.model.readers[at].out.clear();
            if clean || expiry_s == 0 {
                self.model.readers[at].is_gone = true;
            }
        }
        self.tell(|| format!("{client:?} opens session {id} clean {clean}"));
        let limit = self.rng.u32(1..6);
        let (reply, answer) = oneshot::channel();
        let open = OpenSession { id, clean, expiry_s, limit };
        self.world().commands.push(Command::OpenSession { client, open, reply });
        self.waits.push(Wait::Session(client, answer));
    }

    pub(super) fn subscribe(&mut self) {
        let client = self.client();
        let at = self.peers.iter().position(|peer| peer.id == client).unwrap();
        let Some(session) = self.peers[at].session.clone() else { return };
        let text = self.rng.choice(FILTERS).unwrap().to_owned();
        let filter = Filter::parse(&text).unwrap();
        let kind =
            Kind::Subscription { session: session.clone(), share: None, filter: text.clone() };
        if self.rng.u8(..5) == 0 {
            let (reply, _) = oneshot::channel();
            if let Some(at) = self.model.find(&kind) {
                self.tell(|| format!("unsubscribe {kind:?}"));
                self.model.readers[at].is_gone = true;
                self.hands.retain(|hand| hand.reader != at);
                self.world().commands.push(Command::Unsubscribe {
                    client,
                    filter,
                    share: None,
                    reply,
                });
            }
            return;
        }
        let reader = self.model.find(&kind).unwrap_or_else(|| {
            let mut reader = Reader::new(kind, Policy::default(), session != "s2", now());
            reader.is_loose = session == "s2";
            self.model.readers.push(reader);
            self.model.readers.len() - 1
        });
        self.tell(|| format!("{session} subscribes {text}"));
        let (reply, answer) = oneshot::channel();
        let subscribe = Subscribe { filter, share: None, options: 0, live: false };
        self.world().commands.push(Command::Subscribe { client, subscribe, reply });
        self.waits.push(Wait::Subscribe(reader, client, answer));
    }
}

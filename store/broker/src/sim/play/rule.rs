//! Rules that come and go under everything else. They ask only what no run comes near, so that what
//! is owed does not hang on them; that they are kept, and an index made anew knows them, is what
//! counts.

use mainstem_index::ParameterKey;
use mainstem_schemas::Value;
use tokio::sync::oneshot;

use super::Game;
use crate::{
    command::Command,
    rules::{ApplyTo, Authority, Rule},
};

/// Every bound that a rule asks for is at least this.
pub(super) const RULES_FROM: u64 = 1 << 40;

impl Game {
    pub(super) fn set_rule(&mut self) {
        let rng = &mut self.rng;
        let authority = rng.choice([Authority::User, Authority::Operator]).unwrap();
        let key = ParameterKey {
            namespace: "/".to_owned(),
            component: authority.component().to_owned(),
            name: rng.choice(["p0", "p1", "p2"]).unwrap().to_owned(),
        };
        if rng.u8(..3) == 0 {
            let (reply, _) = oneshot::channel();
            self.world().commands.push(Command::DeleteParameter { key, reply });
            return;
        }
        let asks = rng.choice(["max-length", "max-length-bytes", "message-ttl", "expires"]);
        let much = Value::Int(rng.u64(RULES_FROM..1 << 50).cast_signed());
        let rule = Rule {
            name: key.name.clone(),
            pattern: rng.choice(["", "^q[0-2]$", "x"]).unwrap().to_owned(),
            apply_to: rng.choice([ApplyTo::All, ApplyTo::Queues]).unwrap(),
            priority: rng.i64(..3),
            definition: vec![(asks.unwrap().to_owned(), much)],
        };
        let (reply, _) = oneshot::channel();
        self.world().commands.push(Command::SetParameter { key, value: rule.to_table(), reply });
    }
}

//! Who there is and what they may do: what the configuration says, and over it what was set since.

use std::collections::BTreeMap;

use mainstem_schemas::{Table, Value, value::find};

use super::{
    grant::{Grant, Permission, TopicPermission, Whose},
    password::{Algorithm, Kept},
};
use crate::config::Config;

/// Under which names the store keeps it.
pub(super) const USERS: &str = "user";
pub(super) const NAMESPACES: &str = "namespace";
pub(super) const PERMISSIONS: &str = "permission";
pub(super) const TOPIC_PERMISSIONS: &str = "topic_permission";
/// Users and namespaces are in no namespace.
pub(super) const NOWHERE: &str = "";

/// What proves a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// The configuration has the password as it is; and what is shown of it.
    Plain(String, Kept),
    Kept(Kept),
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub(super) proof: Proof,
    /// RabbitMQ's: `administrator`, `monitoring`, `policymaker`, `management`, and others of no meaning
    /// here.
    pub tags: Vec<String>,
    pub(super) loopback_only: bool,
    pub(super) access_key: String,
    pub(super) secret_key: String,
}

impl Account {
    pub(super) fn with(proof: Proof, tags: Vec<String>) -> Self {
        let (access_key, secret_key) = (String::new(), String::new());
        Self { proof, tags, loopback_only: false, access_key, secret_key }
    }

    /// A hash of its password.
    #[must_use]
    pub fn shown(&self) -> Kept {
        match &self.proof {
            Proof::Plain(_, shown) => shown.clone(),
            Proof::Kept(kept) => kept.clone(),
        }
    }
}

/// A namespace, as it was described.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    pub description: String,
    pub tags: Vec<String>,
    pub default_queue_type: String,
    /// It was deleted once: what the configuration says of its users does not hold in it.
    pub(super) is_anew: bool,
}

/// A user's patterns in a namespace, and those for keys by exchange.
pub(super) type Said = (Permission, BTreeMap<String, TopicPermission>);

/// All of it at one time.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    pub users: BTreeMap<String, Account>,
    pub namespaces: BTreeMap<String, Described>,
    /// By namespace and user.
    pub permissions: BTreeMap<(String, String), Permission>,
    /// By namespace, user and exchange.
    pub topics: BTreeMap<(String, String, String), TopicPermission>,
}

impl Directory {
    /// What the configuration says: its users may do everything in its namespaces.
    pub(super) fn of(config: &Config) -> Self {
        let mut directory = Self::default();
        for name in &config.namespaces {
            directory.namespaces.insert(name.clone(), Described::default());
        }
        for user in &config.users {
            let shown = Kept::salted(user.password.as_bytes());
            let proof = Proof::Plain(user.password.clone(), shown);
            let account = Account {
                loopback_only: user.loopback_only,
                access_key: user.access_key.clone(),
                secret_key: user.secret_key.clone(),
                ..Account::with(proof, user.tags.clone())
            };
            directory.users.insert(user.name.clone(), account);
            for namespace in &config.namespaces {
                let of = (namespace.clone(), user.name.clone());
                directory.permissions.insert(of, Permission::all());
            }
        }
        directory
    }

    /// Something that was kept. What takes something back that the configuration says is kept as such.
    pub(super) fn apply(&mut self, namespace: &str, component: &str, name: &str, value: &Table) {
        let is_gone = find(value, GONE).is_some();
        let text = |field: &str| text(value, field);
        match component {
            USERS if is_gone => drop(self.users.remove(name)),
            USERS => {
                let algorithm = Algorithm::from_word(&text("algorithm"));
                let kept = algorithm.and_then(|one| Kept::read(one, &text("hash")));
                let Some(kept) = kept else { return };
                // Whoever had keys keeps them: another password is another password only.
                let known = self.users.get(name).filter(|_| text("keys") == KEPT_KEYS);
                let (access_key, secret_key) = known
                    .map(|known| (known.access_key.clone(), known.secret_key.clone()))
                    .unwrap_or_default();
                let proof = Proof::Kept(kept);
                let account = Account {
                    loopback_only: known.is_some_and(|known| known.loopback_only),
                    access_key,
                    secret_key,
                    ..Account::with(proof, words(&text("tags")))
                };
                self.users.insert(name.to_owned(), account);
            }
            NAMESPACES if is_gone => {
                self.namespaces.remove(name);
                self.forget_rights(name);
            }
            NAMESPACES => {
                let (description, default_queue_type) =
                    (text("description"), text("default_queue_type"));
                let tags = words(&text("tags"));
                let is_anew = !text("anew").is_empty();
                let described = Described { description, tags, default_queue_type, is_anew };
                let before = self.namespaces.insert(name.to_owned(), described);
                if is_anew && before.is_some_and(|before| !before.is_anew) {
                    self.forget_rights(name);
                }
            }
            PERMISSIONS => {
                let of = (namespace.to_owned(), name.to_owned());
                if is_gone {
                    self.permissions.remove(&of);
                } else {
                    let (configure, write, read) = (text("configure"), text("write"), text("read"));
                    self.permissions.insert(of, Permission { configure, write, read });
                }
            }
            TOPIC_PERMISSIONS => {
                let of = (namespace.to_owned(), text("user"), text("exchange"));
                if is_gone {
                    self.topics.remove(&of);
                } else {
                    let (write, read) = (text("write"), text("read"));
                    self.topics.insert(of, TopicPermission { write, read });
                }
            }
            _ => {}
        }
    }

    fn forget_rights(&mut self, namespace: &str) {
        self.permissions.retain(|(other, _), _| other != namespace);
        self.topics.retain(|(other, ..), _| other != namespace);
    }

    /// Who signs with this key.
    pub(super) fn by_key(&self, key: &str) -> Option<(&str, &Account)> {
        let mut all = self.users.iter();
        let found = all.find(|(_, account)| !key.is_empty() && account.access_key == key);
        found.map(|(name, account)| (name.as_str(), account))
    }

    /// What was said about a user in a namespace; `None` for nothing.
    pub(super) fn said(&self, whose: Whose<'_>) -> Option<Said> {
        let of = (whose.namespace.to_owned(), whose.user.to_owned());
        let permission = self.permissions.get(&of)?.clone();
        let from = (of.0, of.1, String::new());
        let topics = self.topics.range(from..).take_while(|((namespace, user, _), _)| {
            namespace == whose.namespace && user == whose.user
        });
        let topics = topics.map(|((_, _, exchange), topic)| (exchange.clone(), topic.clone()));
        Some((permission, topics.collect()))
    }

    /// What a user may do in a namespace; `None` for nothing at all.
    pub(super) fn grant(&self, whose: Whose<'_>) -> Option<Grant> {
        let (permission, topics) = self.said(whose)?;
        let topics = topics.iter().map(|(exchange, topic)| (exchange.as_str(), topic));
        Some(Grant::new(&permission, topics, whose))
    }
}

/// Says of a user that the configuration's keys, and bound to this machine, are still its own.
pub(super) const KEPT_KEYS: &str = "kept";

/// Marks what takes something back.
const GONE: &str = "gone";

pub(super) fn gone() -> Table {
    vec![(GONE.to_owned(), Value::Bool(true))]
}

pub(super) fn table<const N: usize>(fields: [(&str, &str); N]) -> Table {
    let field = |(name, text): (&str, &str)| (name.to_owned(), Value::Text(text.to_owned()));
    fields.into_iter().map(field).collect()
}

fn text(table: &Table, field: &str) -> String {
    match find(table, field) {
        Some(Value::Text(text)) => text.clone(),
        _ => String::new(),
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

//! Changing who there is and what they may do: kept in the store, then true for everybody at once.

use std::sync::Arc;

use mainstem_broker::{Authenticator, Broker, LoginError, Refusal};
use mainstem_schemas::{Credentials, Principal, Table};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    ANONYMOUS, Access, Identity,
    directory::{
        Account, Described, Directory, KEPT_KEYS, NAMESPACES, NOWHERE, PERMISSIONS,
        TOPIC_PERMISSIONS, USERS, gone, table,
    },
    grant::{Permission, TopicPermission},
    operator::OPERATOR,
    password::Kept,
};

/// Why something cannot be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    #[error("{0}")]
    Wrong(String),
    #[error("no user '{0}'")]
    NoUser(String),
    #[error("no namespace '{0}'")]
    NoNamespace(String),
    #[error(transparent)]
    Store(#[from] Refusal),
}

/// Bytes of a name.
const NAME_BYTES_MAX: usize = 255;

/// Who may change it all is the caller's business.
#[derive(Clone)]
pub struct Registry {
    access: Arc<Access>,
    broker: Broker,
    /// One change after the other.
    turn: Arc<Semaphore>,
}

impl Registry {
    /// Reads what was kept. Until then there is what the configuration says.
    pub async fn open(access: Arc<Access>, broker: Broker) -> Result<Self, Refusal> {
        let mut directory = Directory::clone(&access.directory());
        for component in [NAMESPACES, USERS] {
            for (name, value) in broker.kept(NOWHERE, component).await? {
                directory.apply(NOWHERE, component, &name, &value);
            }
        }
        for namespace in directory.namespaces.keys().cloned().collect::<Vec<_>>() {
            for component in [PERMISSIONS, TOPIC_PERMISSIONS] {
                for (name, value) in broker.kept(&namespace, component).await? {
                    directory.apply(&namespace, component, &name, &value);
                }
            }
        }
        access.change(|now| *now = directory);
        Ok(Self { access, broker, turn: Arc::new(Semaphore::new(1)) })
    }

    /// Whose credentials these are, whatever namespace they are for, and the tags of that user.
    pub async fn authenticate(&self, credentials: &Credentials) -> Result<Identity, LoginError> {
        let (access, credentials) = (self.access.clone(), credentials.clone());
        if access.is_quick(&credentials) {
            return access.user_of(&credentials);
        }
        self.broker.hash_beside(move || access.user_of(&credentials)).await?
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        self.turn.acquire().await.map_err(|_| Refusal::Closed)
    }

    /// Hashes a password.
    pub async fn hash(&self, password: Vec<u8>) -> Result<Kept, LoginError> {
        self.broker.hash_beside(move || Kept::of(&password)).await
    }

    /// As it is now.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        self.access.directory()
    }

    /// Makes a user, or changes one; tells whether it is new.
    pub async fn set_user(
        &self,
        name: &str,
        kept: &Kept,
        tags: &[String],
    ) -> Result<bool, AccessError> {
        check_name("user", name)?;
        if name == ANONYMOUS || name == OPERATOR {
            return Err(AccessError::Wrong(format!("'{name}' is nobody's own name")));
        }
        if let Some(odd) = tags.iter().find(|tag| tag.contains(',') || tag.trim() != *tag) {
            return Err(AccessError::Wrong(format!("'{odd}' is no tag")));
        }
        let _turn = self.turn().await?;
        let directory = self.directory();
        let known = directory.users.get(name);
        let (algorithm, tags) = (kept.algorithm().word(), tags.join(","));
        // Who was deleted and comes again has none of them, whatever is set later.
        let has_some = |known: &Account| known.loopback_only || !known.access_key.is_empty();
        let keys = if known.is_some_and(has_some) { KEPT_KEYS } else { "" };
        let value = table([
            ("hash", kept.hash()),
            ("algorithm", algorithm),
            ("tags", &tags),
            ("keys", keys),
        ]);
        self.keep(NOWHERE, USERS, name, value).await?;
        Ok(known.is_none())
    }

    /// Forgets a user with all that it may do; tells whether it was there. Its connections end.
    pub async fn delete_user(&self, name: &str) -> Result<bool, AccessError> {
        let _turn = self.turn().await?;
        let directory = self.directory();
        if !directory.users.contains_key(name) {
            return Ok(false);
        }
        for (namespace, user) in directory.permissions.keys().filter(|(_, user)| user == name) {
            self.keep(namespace, PERMISSIONS, user, gone()).await?;
        }
        for (namespace, user, exchange) in directory.topics.keys().filter(|of| of.1 == name) {
            self.drop_topic(namespace, user, exchange).await?;
        }
        self.keep(NOWHERE, USERS, name, gone()).await?;
        self.end_connections(|whose| *whose.name == *name, &format!("user '{name}' was deleted"));
        Ok(true)
    }

    /// Makes a namespace, or describes one anew; tells whether it is new.
    pub async fn set_namespace(
        &self,
        name: &str,
        described: &Described,
    ) -> Result<bool, AccessError> {
        check_name("virtual host", name)?;
        let _turn = self.turn().await?;
        let known = self.directory().namespaces.get(name).map(|known| known.is_anew);
        let is_new = known.is_none();
        if is_new {
            // What a deletion that was cut short has left.
            self.broker.empty(name).await?;
        }
        let Described { description, tags, default_queue_type, .. } = described;
        let anew = if known.unwrap_or(true) { "anew" } else { "" };
        let value = table([
            ("description", description),
            ("tags", &tags.join(",")),
            ("default_queue_type", default_queue_type),
            ("anew", anew),
        ]);
        self.keep(NOWHERE, NAMESPACES, name, value).await?;
        Ok(is_new)
    }

    /// Forgets a namespace with everything in it; tells whether it was there. Nobody comes in any more, and
    /// who is in may do nothing from then on. Goes on when its caller goes away.
    pub async fn delete_namespace(&self, name: &str) -> Result<bool, AccessError> {
        let (registry, name) = (self.clone(), name.to_owned());
        let deleted = tokio::spawn(async move { registry.delete_all_of(&name).await });
        deleted.await.unwrap_or(Err(AccessError::Store(Refusal::Closed)))
    }

    async fn delete_all_of(&self, name: &str) -> Result<bool, AccessError> {
        let _turn = self.turn().await?;
        if !self.directory().namespaces.contains_key(name) {
            return Ok(false);
        }
        self.keep(NOWHERE, NAMESPACES, name, gone()).await?;
        let reason = format!("vhost '{name}' was deleted");
        self.end_connections(|whose| *whose.namespace == *name, &reason);
        self.broker.empty(name).await?;
        Ok(true)
    }

    fn end_connections(&self, is_wanted: impl Fn(&Principal) -> bool, reason: &str) {
        for connection in self.broker.connections() {
            if is_wanted(connection.principal()) {
                connection.end(reason);
            }
        }
    }

    /// Sets what a user may do in a namespace; tells whether it could do nothing there before.
    pub async fn set_permission(
        &self,
        namespace: &str,
        user: &str,
        permission: &Permission,
    ) -> Result<bool, AccessError> {
        permission.check().map_err(AccessError::Wrong)?;
        let _turn = self.turn().await?;
        self.check_place(namespace, user)?;
        let of = (namespace.to_owned(), user.to_owned());
        let is_new = !self.directory().permissions.contains_key(&of);
        let Permission { configure, write, read } = permission;
        let value = table([("configure", configure), ("write", write), ("read", read)]);
        self.keep(namespace, PERMISSIONS, user, value).await?;
        Ok(is_new)
    }

    /// Takes back what a user may do in a namespace; tells whether there was something.
    pub async fn delete_permission(
        &self,
        namespace: &str,
        user: &str,
    ) -> Result<bool, AccessError> {
        let _turn = self.turn().await?;
        self.check_place(namespace, user)?;
        let of = (namespace.to_owned(), user.to_owned());
        let was_there = self.directory().permissions.contains_key(&of);
        if was_there {
            self.keep(namespace, PERMISSIONS, user, gone()).await?;
        }
        Ok(was_there)
    }

    /// Sets which keys a user may use at an exchange; tells whether there was no bound before.
    pub async fn set_topic_permission(
        &self,
        namespace: &str,
        user: &str,
        exchange: &str,
        topic: &TopicPermission,
    ) -> Result<bool, AccessError> {
        topic.check().map_err(AccessError::Wrong)?;
        let _turn = self.turn().await?;
        self.check_place(namespace, user)?;
        let of = (namespace.to_owned(), user.to_owned(), exchange.to_owned());
        let is_new = !self.directory().topics.contains_key(&of);
        let value = table([
            ("user", user),
            ("exchange", exchange),
            ("write", &topic.write),
            ("read", &topic.read),
        ]);
        self.keep(namespace, TOPIC_PERMISSIONS, &topic_name(user, exchange), value).await?;
        Ok(is_new)
    }

    /// Takes the bounds for keys back, at one exchange or at all; tells whether there were some.
    pub async fn delete_topic_permissions(
        &self,
        namespace: &str,
        user: &str,
        exchange: Option<&str>,
    ) -> Result<bool, AccessError> {
        let _turn = self.turn().await?;
        self.check_place(namespace, user)?;
        let directory = self.directory();
        let mut was_there = false;
        for of in directory.topics.keys().filter(|of| of.0 == namespace && of.1 == user) {
            if exchange.is_none_or(|exchange| of.2 == exchange) {
                was_there = true;
                self.drop_topic(&of.0, &of.1, &of.2).await?;
            }
        }
        Ok(was_there)
    }

    async fn drop_topic(
        &self,
        namespace: &str,
        user: &str,
        exchange: &str,
    ) -> Result<(), AccessError> {
        let name = topic_name(user, exchange);
        self.broker.let_go(namespace, TOPIC_PERMISSIONS, &name).await?;
        let of = (namespace.to_owned(), user.to_owned(), exchange.to_owned());
        self.access.change(|directory| drop(directory.topics.remove(&of)));
        Ok(())
    }

    /// Keeps something, which is true for everybody then. Goes on when its caller goes away, so that both
    /// happen or none.
    async fn keep(
        &self,
        namespace: &str,
        component: &'static str,
        name: &str,
        value: Table,
    ) -> Result<(), AccessError> {
        let (access, broker) = (self.access.clone(), self.broker.clone());
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let kept = tokio::spawn(async move {
            broker.keep(&namespace, component, &name, value.clone()).await?;
            access.change(|directory| directory.apply(&namespace, component, &name, &value));
            Ok(())
        });
        kept.await.unwrap_or(Err(AccessError::Store(Refusal::Closed)))
    }

    fn check_place(&self, namespace: &str, user: &str) -> Result<(), AccessError> {
        let directory = self.directory();
        if !directory.namespaces.contains_key(namespace) {
            return Err(AccessError::NoNamespace(namespace.to_owned()));
        }
        if !directory.users.contains_key(user) {
            return Err(AccessError::NoUser(user.to_owned()));
        }
        Ok(())
    }
}

fn topic_name(user: &str, exchange: &str) -> String {
    // No two pairs give the same text.
    format!("{}:{user}{exchange}", user.len())
}

fn check_name(kind: &str, name: &str) -> Result<(), AccessError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
        return Err(AccessError::Wrong(format!("'{name}' is no name of a {kind}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use mainstem_schemas::Views;
    use tempfile::TempDir;

    use super::*;
    use crate::config::{Config, Layer};

    /// As after a start of the process.
    async fn open(dir: &TempDir) -> Registry {
        let users = "users=[{name='ann', password='a', access_key='k', secret_key='s'}, {name='bob', \
                     password='b'}]";
        let sets = ["namespaces=['/', 'plant']", users].map(|set| Layer::Set(set.to_owned()));
        let config = Config::load(&sets).unwrap();
        let mut store = mainstem_broker::Config::new(dir.path().to_owned());
        store.segment_bytes = 4 << 20;
        store.message_bytes_max = 1 << 20;
        let access = Arc::new(Access::new(&config));
        let broker = Broker::open(store, access.clone(), Views::default()).unwrap();
        Registry::open(access, broker).await.unwrap()
    }

    async fn again(dir: &TempDir, registry: Registry) -> Registry {
        registry.broker.stop().await;
        drop(registry);
        open(dir).await
    }

    fn who_may(registry: &Registry, namespace: &str) -> Vec<String> {
        let directory = registry.directory();
        let of = directory.permissions.keys().filter(|(other, _)| other == namespace);
        of.map(|(_, user)| user.clone()).collect()
    }

    #[tokio::test]
    async fn a_namespace_that_was_deleted_is_not_its_old_users_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = open(&dir).await;
        assert_eq!(who_may(&registry, "plant"), ["ann", "bob"]);
        assert!(registry.delete_namespace("plant").await.unwrap());
        assert!(!registry.delete_namespace("plant").await.unwrap());
        registry = again(&dir, registry).await;
        assert!(!registry.directory().namespaces.contains_key("plant"));
        assert!(registry.set_namespace("plant", &Described::default()).await.unwrap());
        registry.set_permission("plant", "bob", &Permission::all()).await.unwrap();
        assert!(!registry.set_namespace("plant", &Described::default()).await.unwrap());
        for _ in 0..2 {
            assert_eq!(who_may(&registry, "plant"), ["bob"]);
            assert_eq!(who_may(&registry, "/"), ["ann", "bob"]);
            registry = again(&dir, registry).await;
        }
    }

    #[tokio::test]
    async fn a_user_that_was_deleted_comes_again_with_nothing_of_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = open(&dir).await;
        let other = Kept::salted(b"other");
        // Another password alone takes nothing away.
        assert!(!registry.set_user("ann", &other, &[]).await.unwrap());
        registry = again(&dir, registry).await;
        assert!(registry.directory().by_key("k").is_some());
        assert!(registry.delete_user("ann").await.unwrap());
        assert!(registry.set_user("ann", &other, &[]).await.unwrap());
        assert!(!registry.set_user("ann", &Kept::salted(b"third"), &[]).await.unwrap());
        for _ in 0..2 {
            assert!(registry.directory().by_key("k").is_none());
            assert_eq!(who_may(&registry, "/"), ["bob"]);
            registry = again(&dir, registry).await;
        }
        assert!(registry.set_user(ANONYMOUS, &other, &[]).await.is_err());
    }
}

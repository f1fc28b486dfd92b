//! Settings that are kept with the data, and what hangs on them.

use std::sync::Arc;

use mainstem_index::{NameKey, ParameterKey, ParameterValue};
use mainstem_schemas::{Position, QueueId, Table};

use super::State;
use crate::{
    rules::{Authority, Rule, Rules},
    usage::{Bounded, NAMESPACE_LIMITS, Scope, USER_LIMITS, from_table},
};

impl State {
    pub(super) fn set_parameter(&mut self, key: ParameterKey, value: Table, home: Position) {
        let value = ParameterValue { home, value };
        self.batch.put(&key, &value);
        self.move_in(home);
        if let Some(before) = self.parameters.insert(key.clone(), value) {
            self.leave_home(before.home);
        }
        self.follow_parameter(&key);
    }

    pub(super) fn delete_parameter(&mut self, key: &ParameterKey) {
        self.batch.delete(key);
        if let Some(before) = self.parameters.remove(key) {
            self.leave_home(before.home);
        }
        self.follow_parameter(key);
    }

    /// A setting changed: what hangs on it follows.
    pub(super) fn follow_parameter(&mut self, key: &ParameterKey) {
        if Authority::of_component(&key.component).is_some() {
            self.govern(&key.namespace);
        }
        let scope = match key.component.as_str() {
            NAMESPACE_LIMITS => Scope::Namespace(key.namespace.clone()),
            USER_LIMITS => Scope::User(key.namespace.clone()),
            _ => return,
        };
        if let Some(bounded) = Bounded::from_word(&key.name) {
            let max = self.parameters.get(key).and_then(|known| from_table(&known.value));
            self.usage.limit(&scope, bounded, max);
        }
    }

    /// All settings of one kind in a namespace, by name.
    pub(crate) fn parameters_of(
        &self,
        namespace: &str,
        component: &str,
    ) -> impl Iterator<Item = (&ParameterKey, &ParameterValue)> {
        let from = ParameterKey {
            namespace: namespace.to_owned(),
            component: component.to_owned(),
            name: String::new(),
        };
        let upto = from.clone();
        self.parameters.range(from..).take_while(move |(key, _)| {
            key.namespace == upto.namespace && key.component == upto.component
        })
    }

    /// How many queues a namespace may have, if that is bounded.
    pub(crate) fn queues_max(&self, namespace: &str) -> Option<u64> {
        let key = ParameterKey {
            namespace: namespace.to_owned(),
            component: NAMESPACE_LIMITS.to_owned(),
            name: Bounded::Queues.word().to_owned(),
        };
        self.parameters.get(&key).and_then(|known| from_table(&known.value))
    }

    /// How many named queues a namespace has. Counted once, then kept.
    pub(crate) fn queues_count(&mut self, namespace: &str) -> u64 {
        if let Some(count) = self.namespace(namespace).queues {
            return count;
        }
        let index = self.index.clone();
        let mut stored = 0;
        for found in index.names(namespace, None) {
            let found = found.map(Some);
            let Some((name, _)) = self.sound::<Option<(NameKey, QueueId)>>(found) else { break };
            // What was found or changed since is counted below.
            let is_known = self.namespace(namespace).named.contains_key(name.name.as_bytes());
            stored += u64::from(!is_known);
        }
        let space = self.namespace(namespace);
        let known = space.named.values().filter(|id| id.is_some()).count();
        let count = stored + known as u64;
        space.queues = Some(count);
        count
    }

    /// The rules of a namespace changed: exchanges, and queues in memory, go by the new ones from
    /// now on. Other queues do when they are next used.
    fn govern(&mut self, namespace: &str) {
        let mut rules = Vec::new();
        for authority in [Authority::User, Authority::Operator] {
            for (key, value) in self.parameters_of(namespace, authority.component()) {
                let rule = Rule::from_table(&key.name, &value.value);
                rules.extend(rule.map(|rule| (authority, rule)));
            }
        }
        let rules = Arc::new(Rules::new(rules.into_iter()));
        let name = self.queues.intern(namespace);
        for exchange in self.namespace(namespace).exchanges.iter_mut() {
            exchange.govern(&rules);
        }
        self.namespace(namespace).rules = rules.clone();
        let changed: Vec<QueueId> = self.queues.set_rules(name, rules);
        changed.into_iter().for_each(|id| self.note_governed(id));
    }

    /// A queue goes by other rules than before: what it has to do is to be found anew.
    pub(crate) fn note_governed(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get(id) else { return };
        if !queue.is_due_unknown {
            queue.is_due_unknown = true;
            self.due_unknown.push(id);
        }
        self.governed.push(id);
    }
}

//! Settings that are kept with the data: policies and limits.

use mainstem_index::{NameKey, ParameterKey};
use mainstem_schemas::{Position, QueueId, Table};

use super::Commit;
use crate::{
    entry::Entry,
    rules::{Authority, Rule, Rules},
};

impl Commit {
    pub(super) fn set_parameter(&mut self, key: ParameterKey, value: Table) {
        self.load_matching(&key, &value);
        self.log(Entry::SetParameter { key, value });
        self.follow_rules();
    }

    /// Tells whether it was there.
    pub(super) fn delete_parameter(&mut self, key: ParameterKey) -> bool {
        let known = self.state.parameters.contains_key(&key);
        if known {
            self.log(Entry::DeleteParameter { key });
            self.follow_rules();
        }
        known
    }

    pub(super) fn list_parameters(
        &mut self,
        namespace: &str,
        component: &str,
    ) -> Vec<(String, Table)> {
        let found = self.state.parameters_of(namespace, component);
        found.map(|(key, value)| (key.name.clone(), value.value.clone())).collect()
    }

    /// States a setting again, if `position` is where it is stated.
    pub(super) fn restate_parameter(&mut self, key: ParameterKey, position: Position) {
        let known = self.state.parameters.get(&key);
        if let Some(known) = known.filter(|known| known.home == position) {
            let value = known.value.clone();
            self.log_lazily(Entry::SetParameter { key, value });
        }
    }

    /// Queues that nobody uses are to act, too, where a rule gives them something to do at a time of
    /// their own or a bound to keep.
    fn load_matching(&mut self, key: &ParameterKey, value: &Table) {
        let Some(authority) = Authority::of_component(&key.component) else { return };
        let Some(rule) = Rule::from_table(&key.name, value) else { return };
        let acts = |key: &str| {
            matches!(key, "message-ttl" | "expires" | "max-length" | "max-length-bytes" | "max-age")
        };
        if !rule.definition.iter().any(|(key, _)| acts(key)) {
            return;
        }
        let rules = Rules::new(std::iter::once((authority, rule)));
        let index = self.state.index.clone();
        for found in index.scan::<NameKey>() {
            let found = found.map(Some);
            let Some((name, id)) = self.state.sound::<Option<(NameKey, QueueId)>>(found) else {
                return;
            };
            if name.namespace == key.namespace && rules.matches_any(&name.name) {
                self.state.queues.get(id);
            }
        }
    }

    /// What a change of rules asks of queues at once.
    fn follow_rules(&mut self) {
        for id in std::mem::take(&mut self.state.governed) {
            self.over_bounds.insert(id);
            self.touch(id);
        }
    }
}

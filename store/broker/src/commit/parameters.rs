//! Settings that are kept with the data: policies and limits.

use std::collections::BTreeMap;

use mainstem_index::{NameKey, ParameterKey};
use mainstem_schemas::{Position, QueueId, Table};

use super::Commit;
use crate::{
    command::Reply,
    entry::Entry,
    rules::{Authority, Rule, Rules},
};

/// Names that one turn looks at for a new rule.
const NAMES_PER_TURN: usize = 2048;
/// Queues that one turn looks at for a new rule: each of them may have to be read.
const QUEUES_PER_TURN: usize = 64;

/// A search for the queues that a new rule is for. Those that nobody uses are to act, too, where it
/// gives them something to do at a time of their own or a bound to keep.
pub(super) struct Search {
    namespace: String,
    /// The rule that is new; `None` when the process began, and all may be new to some queues: how
    /// far a search came is nowhere but in memory.
    of: Option<ParameterKey>,
    rules: Rules,
    /// The name that was looked at last.
    last: Option<String>,
    reply: Option<Reply<()>>,
}

impl Search {
    fn of(key: &ParameterKey, value: &Table) -> Option<(Authority, Rule)> {
        let authority = Authority::of_component(&key.component)?;
        let rule = Rule::from_table(&key.name, value)?;
        rule.makes_queues_act().then_some((authority, rule))
    }
}

impl Commit {
    pub(super) fn set_parameter(&mut self, key: ParameterKey, value: Table, reply: Reply<()>) {
        let rule = Search::of(&key, &value);
        let (namespace, of) = (key.namespace.clone(), Some(key.clone()));
        self.end_search(&key);
        self.log(Entry::SetParameter { key, value });
        self.follow_rules();
        match rule {
            Some(rule) => {
                let rules = Rules::new(std::iter::once(rule));
                let reply = Some(reply);
                self.go_on_searching(Search { namespace, of, rules, last: None, reply });
            }
            None => self.answer_durably(Some(reply), ()),
        }
    }

    /// Begins to look for all queues that some rule is for.
    pub(super) fn search_for_all_rules(&mut self) {
        let mut all: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (key, value) in &self.state.parameters {
            let rule = Search::of(key, &value.value);
            rule.into_iter().for_each(|rule| all.entry(&key.namespace).or_default().push(rule));
        }
        let searches = all.into_iter().map(|(namespace, rules)| Search {
            namespace: namespace.to_owned(),
            of: None,
            rules: Rules::new(rules.into_iter()),
            last: None,
            reply: None,
        });
        self.chores.searches = searches.collect();
    }

    /// A rule is another now, or gone: nobody need look for the queues it was for.
    fn end_search(&mut self, key: &ParameterKey) {
        let found = self.chores.searches.iter().position(|search| search.of.as_ref() == Some(key));
        if let Some(search) = found.and_then(|at| self.chores.searches.remove(at)) {
            self.answer_durably(search.reply, ());
        }
    }

    pub(super) fn go_on_searching(&mut self, mut search: Search) {
        let index = self.state.index.clone();
        let (mut names, mut queues) = (0, 0);
        for found in index.names(&search.namespace, search.last.as_deref()) {
            let found = found.map(Some);
            let Some((name, id)) = self.state.sound::<Option<(NameKey, QueueId)>>(found) else {
                return;
            };
            names += 1;
            if search.rules.matches_any(&name.name) {
                queues += 1;
                self.state.note_governed(id);
            }
            search.last = Some(name.name);
            if names == NAMES_PER_TURN || queues == QUEUES_PER_TURN {
                self.follow_rules();
                return self.chores.searches.push_back(search);
            }
        }
        self.follow_rules();
        self.answer_durably(search.reply, ());
    }

    /// Tells whether it was there.
    pub(super) fn delete_parameter(&mut self, key: ParameterKey) -> bool {
        let known = self.state.parameters.contains_key(&key);
        if known {
            self.end_search(&key);
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

    /// What a change of rules asks of queues at once.
    fn follow_rules(&mut self) {
        for id in std::mem::take(&mut self.state.governed) {
            self.over_bounds.insert(id);
            self.touch(id);
        }
    }
}

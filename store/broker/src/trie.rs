//! Many filters at once: a trie over segments that answers which values want a path.
//!
//! It serves topic subscriptions and topic exchanges alike, so `Rest` may stand anywhere in a
//! pattern, not only at its end. Matching walks all live nodes one segment at a time, each node at
//! most once per segment: hostile patterns cost their own size, never an exponential.

use bytes::Bytes;
use mainstem_schemas::filter::Step;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

type NodeId = u32;
const ROOT: NodeId = 0;

#[derive(Debug)]
struct Node<V> {
    exact: Children,
    one: Option<NodeId>,
    rest: Option<NodeId>,
    /// This node is a `Rest` step: any further segment keeps it alive.
    repeats: bool,
    values: SmallVec<[V; 1]>,
    parent: NodeId,
}

/// Nodes by their segment. Most nodes have one below them at most, and a map has room for more.
#[derive(Debug, Default)]
enum Children {
    #[default]
    None,
    One(Box<[u8]>, NodeId),
    Many(Box<FxHashMap<Box<[u8]>, NodeId>>),
}

impl Children {
    fn is_empty(&self) -> bool {
        match self {
            Self::None => true,
            Self::One(..) => false,
            Self::Many(all) => all.is_empty(),
        }
    }

    fn get(&self, segment: &[u8]) -> Option<NodeId> {
        match self {
            Self::None => None,
            Self::One(only, child) => (**only == *segment).then_some(*child),
            Self::Many(all) => all.get(segment).copied(),
        }
    }

    /// Of a segment that is not there.
    fn insert(&mut self, segment: &[u8], child: NodeId) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(segment.into(), child),
            Self::One(only, first) => {
                Self::Many(Box::new([(only, first), (segment.into(), child)].into_iter().collect()))
            }
            Self::Many(mut all) => {
                all.insert(segment.into(), child);
                Self::Many(all)
            }
        };
    }

    fn remove(&mut self, segment: &[u8]) {
        match self {
            Self::Many(all) => {
                all.remove(segment);
            }
            Self::One(only, _) if **only == *segment => *self = Self::None,
            Self::None | Self::One(..) => {}
        }
    }
}

/// A set of (pattern, value) pairs.
#[derive(Debug)]
pub(crate) struct Trie<V> {
    nodes: Vec<Node<V>>,
    free: Vec<NodeId>,
    len: usize,
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self { nodes: vec![Node::below(ROOT, false)], free: Vec::new(), len: 0 }
    }
}

impl<V> Node<V> {
    fn below(parent: NodeId, repeats: bool) -> Self {
        let (exact, values) = (Children::None, SmallVec::new());
        Self { exact, one: None, rest: None, repeats, values, parent }
    }

    fn is_bare(&self) -> bool {
        self.values.is_empty() && self.exact.is_empty() && self.one.is_none() && self.rest.is_none()
    }
}

impl<V: PartialEq + Clone> Trie<V> {
    /// Whether it holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a pair. The same pair may be there more than once.
    pub(crate) fn insert(&mut self, steps: &[Step], value: V) {
        let mut at = ROOT;
        for step in steps {
            at = match self.child(at, step) {
                Some(child) => child,
                None => self.add_child(at, step),
            };
        }
        if let Some(node) = self.node_mut(at) {
            node.values.push(value);
            self.len += 1;
        }
    }

    /// Removes one pair for which `is_it` holds; tells whether there was one.
    pub(crate) fn remove(&mut self, steps: &[Step], is_it: impl Fn(&V) -> bool) -> bool {
        let mut at = ROOT;
        for step in steps {
            let Some(child) = self.child(at, step) else { return false };
            at = child;
        }
        let Some(node) = self.node_mut(at) else { return false };
        let Some(index) = node.values.iter().position(is_it) else { return false };
        node.values.swap_remove(index);
        self.len -= 1;
        for step in steps.iter().rev() {
            let Some(node) = self.node(at) else { break };
            if !node.is_bare() {
                break;
            }
            let parent = node.parent;
            self.unlink(parent, step);
            self.free.push(at);
            at = parent;
        }
        true
    }

    /// Calls `found` with every value that wants the path, once per pair. With `hide_dollar`, a
    /// leading wildcard does not see a first segment that begins with `$`.
    pub(crate) fn find<'a>(
        &self,
        segments: impl Iterator<Item = &'a [u8]>,
        hide_dollar: bool,
        mut found: impl FnMut(&V),
    ) {
        let mut live: SmallVec<[NodeId; 16]> = SmallVec::new();
        let mut next: SmallVec<[NodeId; 16]> = SmallVec::new();
        let mut first = true;
        let mut segments = segments.peekable();
        let hidden = hide_dollar && segments.peek().is_some_and(|s| s.starts_with(b"$"));
        live.push(ROOT);
        if !hidden {
            self.add_rest(ROOT, &mut live);
            sort_out(&mut live);
        }
        for segment in segments {
            next.clear();
            for at in &live {
                let Some(node) = self.node(*at) else { continue };
                if node.repeats {
                    next.push(*at);
                }
                if let Some(child) = node.exact.get(segment) {
                    self.enter(child, &mut next);
                }
                if let (Some(child), false) = (node.one, first && hidden) {
                    self.enter(child, &mut next);
                }
            }
            sort_out(&mut next);
            std::mem::swap(&mut live, &mut next);
            if live.is_empty() {
                return;
            }
            first = false;
        }
        for at in &live {
            for value in self.node(*at).into_iter().flat_map(|node| &node.values) {
                found(value);
            }
        }
    }

    fn enter(&self, at: NodeId, live: &mut SmallVec<[NodeId; 16]>) {
        live.push(at);
        self.add_rest(at, live);
    }

    /// A `Rest` child matches no segment too, so it is alive as soon as its parent is.
    fn add_rest(&self, at: NodeId, live: &mut SmallVec<[NodeId; 16]>) {
        let mut at = at;
        while let Some(rest) = self.node(at).and_then(|node| node.rest) {
            live.push(rest);
            at = rest;
        }
    }

    fn node(&self, at: NodeId) -> Option<&Node<V>> {
        self.nodes.get(at as usize)
    }

    fn node_mut(&mut self, at: NodeId) -> Option<&mut Node<V>> {
        self.nodes.get_mut(at as usize)
    }

    fn child(&self, at: NodeId, step: &Step) -> Option<NodeId> {
        let node = self.node(at)?;
        match step {
            Step::Exact(segment) => node.exact.get(segment),
            Step::One => node.one,
            Step::Rest => node.rest,
        }
    }

    fn add_child(&mut self, at: NodeId, step: &Step) -> NodeId {
        let node = Node::below(at, matches!(step, Step::Rest));
        let child = match self.free.pop() {
            Some(free) => {
                if let Some(slot) = self.node_mut(free) {
                    *slot = node;
                }
                free
            }
            None => {
                let id = u32::try_from(self.nodes.len()).expect("memory ends before 2^32 nodes do");
                self.nodes.push(node);
                id
            }
        };
        if let Some(parent) = self.node_mut(at) {
            match step {
                Step::Exact(segment) => parent.exact.insert(segment, child),
                Step::One => parent.one = Some(child),
                Step::Rest => parent.rest = Some(child),
            }
        }
        child
    }

    fn unlink(&mut self, parent: NodeId, step: &Step) {
        let Some(node) = self.node_mut(parent) else { return };
        match step {
            Step::Exact(segment) => node.exact.remove(segment),
            Step::One => node.one = None,
            Step::Rest => node.rest = None,
        }
    }
}

/// A node may be met on several ways; it is alive once.
fn sort_out(live: &mut SmallVec<[NodeId; 16]>) {
    if live.len() > 1 {
        live.sort_unstable();
        live.dedup();
    }
}

/// The pattern a topic exchange's binding key writes: words between `.`, `*` for one word, `#` for
/// any number of words. An empty key has no words.
pub(crate) fn key_pattern(key: &[u8]) -> Vec<Step> {
    key_words(key)
        .map(|word| match word {
            b"*" => Step::One,
            b"#" => Step::Rest,
            _ => Step::Exact(Bytes::copy_from_slice(word)),
        })
        .collect()
}

/// The words of a routing key. An empty key has none, as RabbitMQ counts them.
pub(crate) fn key_words(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let words = key.split(|byte| *byte == b'.');
    words.filter(|word| !key.is_empty() || !word.is_empty())
}

#[cfg(test)]
mod tests {
    use mainstem_schemas::Filter;

    use super::*;

    fn matches(pattern: &str, key: &str) -> bool {
        let mut trie = Trie::default();
        trie.insert(&key_pattern(pattern.as_bytes()), ());
        let mut found = 0;
        trie.find(key_words(key.as_bytes()), false, |()| found += 1);
        assert!(found <= 1, "{pattern} found {key} {found} times");
        found == 1
    }

    #[test]
    fn topic_keys_match_as_a_topic_exchange_does() {
        assert!(matches("#", "a.b") && matches("#", ""));
        assert!(matches("a.#", "a") && matches("a.#", "a.b.c") && !matches("a.#", "b"));
        assert!(matches("#.b", "b") && matches("#.b", "a.x.b") && !matches("#.b", "b.a"));
        assert!(matches("a.#.d", "a.d") && matches("a.#.d", "a.b.c.d"));
        assert!(matches("*.b", "a.b") && !matches("*.b", "a.c.b"));
        assert!(!matches("*", "") && matches("", "") && !matches("", "a"));
        assert!(matches("#.#", "a") && matches("#.a.#.a.#", "a.a") && !matches("#.a.#.a.#", "a"));
    }

    #[test]
    fn a_leading_wildcard_does_not_see_dollar_topics() {
        let mut trie = Trie::default();
        for filter in ["#", "+/x", "$SYS/#", "$SYS/x"] {
            trie.insert(Filter::parse(filter).unwrap().steps(), filter);
        }
        let mut found = Vec::new();
        trie.find("$SYS/x".split('/').map(str::as_bytes), true, |value| found.push(*value));
        found.sort_unstable();
        assert_eq!(found, ["$SYS/#", "$SYS/x"]);
    }

    #[test]
    fn removing_the_last_pair_empties_it() {
        let mut trie = Trie::default();
        let steps = key_pattern(b"a.*.#");
        trie.insert(&steps, 1);
        trie.insert(&steps, 2);
        assert!(trie.remove(&steps, |value| *value == 1));
        assert!(!trie.remove(&steps, |value| *value == 1));
        assert!(trie.remove(&steps, |value| *value == 2));
        assert!(trie.is_empty() && trie.node(ROOT).unwrap().is_bare());
    }

    #[test]
    fn a_hostile_pattern_costs_no_more_than_its_size() {
        let pattern = vec!["#.a"; 100].join(".");
        let key = vec!["a"; 120].join(".");
        assert!(matches(&pattern, &key));
    }
}

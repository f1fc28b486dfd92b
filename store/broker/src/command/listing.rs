//! What is asked about the exchanges, bindings and named queues of a namespace.

use mainstem_schemas::Table;

use super::Reply;
use crate::{
    listing::{
        BindingPlace, BindingsOf, ExchangeShown, GroupPlace, GroupShown, GroupsOf, Page,
        QueueShown, TopicShown,
    },
    meter::Count,
};

/// What may be asked. A list is answered page by page.
#[derive(Debug)]
pub(crate) enum ListCommand {
    /// Those behind this name.
    Exchanges {
        after: Option<String>,
        reply: Reply<Page<ExchangeShown, String>>,
    },
    Exchange {
        name: String,
        reply: Reply<Option<ExchangeShown>>,
    },
    /// What is counted of the exchange without a name.
    Nameless {
        reply: Reply<[Count; 2]>,
    },
    /// Those behind this place.
    Bindings {
        of: BindingsOf,
        after: Option<BindingPlace>,
        reply: Reply<Page<crate::Bind, BindingPlace>>,
    },
    /// Those behind this name.
    Queues {
        after: Option<String>,
        reply: Reply<Page<QueueShown, String>>,
    },
    Queue {
        name: String,
        reply: Reply<Option<QueueShown>>,
    },
    /// Those behind this name.
    Topics {
        after: Option<String>,
        reply: Reply<Page<TopicShown, String>>,
    },
    Topic {
        name: String,
        reply: Reply<Option<TopicShown>>,
    },
    /// Those behind this place.
    Groups {
        of: GroupsOf,
        after: Option<GroupPlace>,
        reply: Reply<Page<GroupShown, GroupPlace>>,
    },
}

/// What is asked of a queue or an exchange by its name, and by which rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ruled {
    /// The name of the users' rule, if one holds.
    pub user: Option<String>,
    /// The name of the operators' rule, if one holds.
    pub operator: Option<String>,
    /// What both ask together.
    pub definition: Table,
}

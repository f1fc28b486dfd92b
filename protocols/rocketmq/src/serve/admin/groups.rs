//! Groups: described, deleted and listed; who is in them, how far they have read, and where they go on.

use std::{collections::BTreeSet, sync::Arc};

use mainstem_broker::{DeliveryPolicy, GroupShown, GroupsOf, Office, Refusal, Start};
use tokio::task::JoinSet;
use tonic::Request;

use super::{Desk, topics::is_ranked};
use crate::{
    codec::{
        names,
        operator::{
            Consumer, CreateGroupRequest, CreateGroupResponse, DeleteGroupRequest,
            DeleteGroupResponse, DescribeGroupRequest, DescribeGroupResponse, GroupOffset,
            GroupTerms as Message, ListConsumersRequest, ListConsumersResponse, ListGroupsRequest,
            ListGroupsResponse, ListOffsetsRequest, ListOffsetsResponse, ResetOffsetRequest,
            ResetOffsetResponse, UpdateGroupRequest, UpdateGroupResponse,
            reset_offset_request::{Place, To},
        },
        proto::{Code, settings::PubSub},
        status::{self, Fault},
    },
    normalize,
    serve::{
        Front,
        lite::branch,
        members::Member,
        offsets::{offset, said},
    },
    session::group::GroupTerms,
};

/// Lite topics that a group is taken out of at a time.
const LEFT_TOGETHER: usize = 256;

impl Front {
    pub(super) async fn on_create_group(
        &self,
        request: Request<CreateGroupRequest>,
    ) -> Result<CreateGroupResponse, Fault> {
        let desk = self.desk(&request, Office::Manager).await?;
        let CreateGroupRequest { group, terms } = request.into_inner();
        let terms = self.check_terms(&desk, &group, terms)?;
        let alone = self.terms.alone().await?;
        if self.learnt(&alone, desk.namespace()).await?.groups.contains_key(&group) {
            let text = format!("consumer group '{group}' is described already");
            return Err(Fault::new(Code::PreconditionFailed, text));
        }
        self.say_of_group(&alone, (desk.namespace(), &group), Some(terms)).await?;
        Ok(CreateGroupResponse { status: Some(status::ok()) })
    }

    pub(super) async fn on_update_group(
        &self,
        request: Request<UpdateGroupRequest>,
    ) -> Result<UpdateGroupResponse, Fault> {
        let desk = self.desk(&request, Office::Manager).await?;
        let UpdateGroupRequest { group, terms } = request.into_inner();
        let terms = self.check_terms(&desk, &group, terms)?;
        let alone = self.terms.alone().await?;
        let before = self.learnt(&alone, desk.namespace()).await?.groups.get(&group).cloned();
        let before = before.ok_or_else(|| no_group(&group))?;
        self.say_of_group(&alone, (desk.namespace(), &group), Some(terms.over(before))).await?;
        Ok(UpdateGroupResponse { status: Some(status::ok()) })
    }

    fn check_terms(
        &self,
        desk: &Desk,
        group: &str,
        terms: Option<Message>,
    ) -> Result<GroupTerms, Fault> {
        names::check_group(group, &self.limits)?;
        let terms = GroupTerms::read(&terms.unwrap_or_default(), &self.limits)?;
        desk.client.check_group_configuration(group)?;
        Ok(terms)
    }

    pub(super) async fn on_delete_group(
        &self,
        request: Request<DeleteGroupRequest>,
    ) -> Result<DeleteGroupResponse, Fault> {
        let desk = self.desk(&request, Office::Manager).await?;
        let group = request.into_inner().group;
        names::check_group(&group, &self.limits)?;
        desk.client.check_group_configuration(&group)?;
        if !self.consumers(&desk, &group).is_empty() {
            let text = format!("consumer group '{group}' has connected consumers");
            return Err(Fault::new(Code::PreconditionFailed, text));
        }
        let mut was_there = self.said(desk.namespace()).groups.contains_key(&group);
        let desk = Arc::new(desk);
        for shown in self.places(&desk, None, &group).await? {
            was_there |= desk.client.delete_group(shown.topic, group.clone()).await?;
        }
        let mut after = None;
        loop {
            let page = self.broker.list_topics(desk.namespace(), after).await?;
            for topic in page.items {
                was_there |= self.leave_lites(&desk, &topic.name, &group).await?;
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let alone = self.terms.alone().await?;
        self.say_of_group(&alone, (desk.namespace(), &group), None).await?;
        if !was_there {
            return Err(no_group(&group));
        }
        Ok(DeleteGroupResponse { status: Some(status::ok()) })
    }

    /// Takes a group out of the lite topics of a topic; tells whether it was in any.
    async fn leave_lites(
        &self,
        desk: &Arc<Desk>,
        topic: &str,
        group: &str,
    ) -> Result<bool, Refusal> {
        let (mut was_there, mut after) = (false, None);
        loop {
            let (above, behind) = (topic.to_owned(), after.take());
            let names = self.own_lites(desk, above, behind).await?;
            let mut leaving = JoinSet::new();
            for lite in &names {
                let (desk, name, group) = (desk.clone(), branch(topic, lite), group.to_owned());
                leaving.spawn(async move { desk.client.delete_group(name, group).await });
            }
            while let Some(left) = leaving.join_next().await {
                match left.unwrap_or(Err(Refusal::Closed)) {
                    Ok(was_in_it) => was_there |= was_in_it,
                    // It went by itself meanwhile.
                    Err(Refusal::NoTopic(_)) => {}
                    Err(other) => return Err(other),
                }
            }
            if names.len() < LEFT_TOGETHER {
                return Ok(was_there);
            }
            after = names.last().cloned();
        }
    }

    /// Some lite topics, whether the operator may read them or not.
    async fn own_lites(
        &self,
        desk: &Desk,
        topic: String,
        after: Option<String>,
    ) -> Result<Vec<String>, Refusal> {
        let (own, _inbox) = self.broker.own_client(desk.namespace()).await?;
        let names = own.list_branches(topic, after, LEFT_TOGETHER).await;
        own.close().await;
        names
    }

    pub(super) async fn on_describe_group(
        &self,
        request: Request<DescribeGroupRequest>,
    ) -> Result<DescribeGroupResponse, Fault> {
        let desk = self.desk(&request, Office::Manager).await?;
        let group = request.into_inner().group;
        names::check_group(&group, &self.limits)?;
        desk.client.check_group_reading(&group)?;
        let is_described = self.said(desk.namespace()).groups.contains_key(&group);
        let consumers = self.consumers(&desk, &group).len();
        if !is_described && consumers == 0 && self.places(&desk, None, &group).await?.is_empty() {
            return Err(no_group(&group));
        }
        let terms = self.group_terms(desk.namespace(), &group);
        let terms = GroupTerms {
            ordered: terms.ordered.or(Some(false)),
            exclusive_lite: terms.exclusive_lite.or(Some(false)),
            ..terms
        };
        Ok(DescribeGroupResponse {
            status: Some(status::ok()),
            terms: Some(terms.message()),
            is_described,
            consumers: u32::try_from(consumers).unwrap_or(u32::MAX),
            group,
        })
    }

    pub(super) async fn on_list_groups(
        &self,
        request: Request<ListGroupsRequest>,
    ) -> Result<ListGroupsResponse, Fault> {
        let desk = self.desk(&request, Office::Manager).await?;
        let mut groups: BTreeSet<String> =
            self.said(desk.namespace()).groups.keys().cloned().collect();
        let mut after = None;
        loop {
            let page = self.broker.list_groups(desk.namespace(), GroupsOf::default(), after);
            let page = page.await?;
            let found = page.items.into_iter().map(|shown| shown.group);
            groups.extend(found.filter(|group| names::check_group(group, &self.limits).is_ok()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        groups.retain(|group| desk.client.check_group_reading(group).is_ok());
        let groups = groups.into_iter().collect();
        Ok(ListGroupsResponse { status: Some(status::ok()), groups })
    }

    pub(super) async fn on_list_consumers(
        &self,
        request: Request<ListConsumersRequest>,
    ) -> Result<ListConsumersResponse, Fault> {
        let desk = self.desk(&request, Office::Manager).await?;
        let group = request.into_inner().group;
        names::check_group(&group, &self.limits)?;
        desk.client.check_group_reading(&group)?;
        let sees_all = desk.client.office() >= Office::Monitor;
        let own = &desk.client.principal().name;
        let members = self.consumers(&desk, &group).into_iter();
        let seen = members.filter(|it| sees_all || it.standing().principal().name == *own);
        let mut consumers: Vec<Consumer> = seen.map(|member| tell(&member)).collect();
        consumers.sort_by(|a, b| a.client_id.cmp(&b.client_id));
        Ok(ListConsumersResponse { status: Some(status::ok()), consumers })
    }

    /// The connected consumers of a group.
    fn consumers(&self, desk: &Desk, group: &str) -> Vec<Arc<Member>> {
        let mut members = self.members.of(desk.namespace());
        members.retain(|member| {
            let settings = member.settings();
            settings.as_ref().is_some_and(|settled| settled.group() == Some(group))
        });
        members
    }

    pub(super) async fn on_list_offsets(
        &self,
        request: Request<ListOffsetsRequest>,
    ) -> Result<ListOffsetsResponse, Fault> {
        let desk = self.desk(&request, Office::Manager).await?;
        let ListOffsetsRequest { group, topic, lite_topic } = request.into_inner();
        names::check_group(&group, &self.limits)?;
        let topic = match (topic.as_str(), lite_topic.as_str()) {
            ("", "") => None,
            _ => Some(self.place_name(topic, &lite_topic)?),
        };
        let (mut offsets, mut denied) = (Vec::new(), None);
        for shown in self.places(&desk, topic, &group).await? {
            if let Err(refusal) = desk.client.check_group(&shown.topic, &group) {
                denied = Some(refusal);
                continue;
            }
            let is_ranked = self.show(&desk, &shown.topic).await.is_ok_and(|it| is_ranked(&it));
            offsets.push(GroupOffset {
                offset: (!is_ranked).then(|| said(shown.floor)),
                lag: shown.unsettled,
                in_flight: shown.in_hand,
                polls: shown.waiting,
                topic: shown.topic,
            });
        }
        match denied {
            Some(refusal) if offsets.is_empty() => Err(refusal.into()),
            _ => Ok(ListOffsetsResponse { status: Some(status::ok()), offsets }),
        }
    }

    /// A group at all topics, or at one.
    async fn places(
        &self,
        desk: &Desk,
        topic: Option<String>,
        group: &str,
    ) -> Result<Vec<GroupShown>, Refusal> {
        let of = GroupsOf { topic, group: Some(group.to_owned()) };
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.broker.list_groups(desk.namespace(), of.clone(), after).await?;
            found.extend(page.items);
            after = page.next;
            if after.is_none() {
                return Ok(found);
            }
        }
    }

    /// The name of a topic, or of one of its lite topics.
    fn place_name(&self, topic: String, lite: &str) -> Result<String, Fault> {
        names::check_topic(&topic, &self.limits)?;
        if lite.is_empty() {
            return Ok(topic);
        }
        names::check_lite(lite, &self.limits)?;
        Ok(branch(&topic, lite))
    }

    pub(super) async fn on_reset_offset(
        &self,
        request: Request<ResetOffsetRequest>,
    ) -> Result<ResetOffsetResponse, Fault> {
        let desk = self.desk(&request, Office::Manager).await?;
        let ResetOffsetRequest { group, topic, lite_topic, to } = request.into_inner();
        names::check_group(&group, &self.limits)?;
        let topic = self.place_name(topic, &lite_topic)?;
        desk.client.check_group(&topic, &group)?;
        let shown = self.show(&desk, &topic).await?;
        let bad = |why: &str| Fault::new(Code::BadRequest, why);
        let to = match to {
            Some(To::Place(place)) if place == Place::First as i32 => Start::First,
            Some(To::Place(place)) if place == Place::Last as i32 => Start::Next,
            Some(To::Timestamp(time)) => {
                Start::Time(normalize::millis(&time).ok_or_else(|| bad("the time is no time"))?)
            }
            Some(To::Offset(_)) if is_ranked(&shown) => return Err(Refusal::Ranked(topic).into()),
            Some(To::Offset(asked)) => {
                let among = (shown.first, shown.next);
                Start::Offset(offset(asked, among).map_err(|(fault, _)| fault)?)
            }
            Some(To::Place(_)) | None => return Err(bad("the request says not where to go on")),
        };
        let batched = !lite_topic.is_empty();
        let policy = DeliveryPolicy { batched, ..self.group_policy(desk.namespace(), &group) };
        let moved = desk.client.move_group(topic, group, to, policy).await?;
        let offset = (!is_ranked(&shown)).then(|| said(moved.at));
        Ok(ResetOffsetResponse { status: Some(status::ok()), offset })
    }
}

fn no_group(group: &str) -> Fault {
    Fault::new(Code::ConsumerGroupNotFound, format!("there is no consumer group '{group}'"))
}

fn tell(member: &Member) -> Consumer {
    let standing = member.standing();
    let property = |wanted: &str| {
        let found = standing.properties().into_iter().find(|(name, _)| name == wanted);
        found.and_then(|(_, value)| value.as_text().map(str::to_owned)).unwrap_or_default()
    };
    let settings = member.settings();
    let settings = settings.as_ref().map(|settled| &settled.settings);
    let subscriptions = match settings.and_then(|settings| settings.pub_sub.as_ref()) {
        Some(PubSub::Subscription(subscription)) => subscription.subscriptions.clone(),
        Some(PubSub::Publishing(_)) | None => Vec::new(),
    };
    Consumer {
        client_id: standing.client_id().to_owned(),
        client_type: settings.and_then(|settings| settings.client_type).unwrap_or_default(),
        language: property("language"),
        version: property("version"),
        address: standing.line().peer.to_string(),
        user: standing.principal().name.to_string(),
        subscriptions,
        connected_at: Some(normalize::timestamp(standing.since())),
    }
}

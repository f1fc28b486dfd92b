//! Topics: made, changed, deleted, described and listed.

use mainstem_broker::{Keeps, Office, Refusal, TopicShown, TopicTerms};
use tokio::sync::SemaphorePermit;
use tonic::Request;

use super::Desk;
use crate::{
    codec::{
        names,
        operator::{
            CreateTopicRequest, CreateTopicResponse, DeleteTopicRequest, DeleteTopicResponse,
            DescribeTopicRequest, DescribeTopicResponse, ListLiteTopicsRequest,
            ListLiteTopicsResponse, ListTopicsRequest, ListTopicsResponse, Retention, Topic,
            UpdateTopicRequest, UpdateTopicResponse,
        },
        proto::{Code, MessageType},
        status::{self, Fault},
    },
    serve::{Front, offsets::said},
    session::settings::{duration, duration_ms},
};

/// Lite topics of one answer.
const LITES_MAX: usize = 1000;

impl Front {
    pub(super) async fn on_create_topic(
        &self,
        request: Request<CreateTopicRequest>,
    ) -> Result<CreateTopicResponse, Fault> {
        let desk = self.desk(&request, Office::Manager).await?;
        let CreateTopicRequest { topic, r#type, retention } = request.into_inner();
        names::check_topic(&topic, &self.limits)?;
        let (kind, keeps) = (message_type(r#type)?, keeps(retention)?);
        desk.client.check_topic_configuration(&topic)?;
        let alone = self.terms.alone().await?;
        if self.broker.show_topic(desk.namespace(), &topic).await?.is_some() {
            let text = format!("topic '{topic}' is there already");
            return Err(Fault::new(Code::PreconditionFailed, text));
        }
        self.set_topic(&alone, &desk, &topic, (Some(kind), keeps)).await?;
        Ok(CreateTopicResponse { status: Some(status::ok()) })
    }

    pub(super) async fn on_update_topic(
        &self,
        request: Request<UpdateTopicRequest>,
    ) -> Result<UpdateTopicResponse, Fault> {
        let desk = self.desk(&request, Office::Manager).await?;
        let UpdateTopicRequest { topic, r#type, retention } = request.into_inner();
        names::check_topic(&topic, &self.limits)?;
        let (kind, keeps) = (r#type.map(message_type).transpose()?, keeps(retention)?);
        desk.client.check_topic_configuration(&topic)?;
        let alone = self.terms.alone().await?;
        let shown = self.show(&desk, &topic).await?;
        if is_ranked(&shown) && kind.is_some_and(|kind| kind != MessageType::Priority) {
            let text = format!("topic '{topic}' gives out by priority, which is for good");
            return Err(Fault::new(Code::PreconditionFailed, text));
        }
        self.set_topic(&alone, &desk, &topic, (kind, keeps)).await?;
        Ok(UpdateTopicResponse { status: Some(status::ok()) })
    }

    /// The type first, so that a topic never takes what it is not for.
    async fn set_topic(
        &self,
        alone: &SemaphorePermit<'_>,
        desk: &Desk,
        topic: &str,
        (kind, keeps): (Option<MessageType>, Option<Keeps>),
    ) -> Result<(), Fault> {
        if let Some(kind) = kind {
            self.say_of_topic(alone, (desk.namespace(), topic), Some(kind)).await?;
        }
        let terms = TopicTerms { priority_max: 0, keeps };
        desk.client.declare_topic(topic.to_owned(), terms).await?;
        if kind == Some(MessageType::Priority) {
            self.rank(desk.namespace(), topic).await?;
        }
        Ok(())
    }

    pub(super) async fn on_delete_topic(
        &self,
        request: Request<DeleteTopicRequest>,
    ) -> Result<DeleteTopicResponse, Fault> {
        let desk = self.desk(&request, Office::Manager).await?;
        let topic = request.into_inner().topic;
        names::check_topic(&topic, &self.limits)?;
        desk.client.check_topic_configuration(&topic)?;
        let alone = self.terms.alone().await?;
        let deleted = desk.client.delete_topic(topic.clone()).await;
        self.topics.forget(desk.namespace(), &topic);
        if matches!(deleted, Ok(()) | Err(Refusal::NoTopic(_))) {
            self.say_of_topic(&alone, (desk.namespace(), &topic), None).await?;
        }
        deleted?;
        Ok(DeleteTopicResponse { status: Some(status::ok()) })
    }

    pub(super) async fn on_describe_topic(
        &self,
        request: Request<DescribeTopicRequest>,
    ) -> Result<DescribeTopicResponse, Fault> {
        let desk = self.desk(&request, Office::Manager).await?;
        let topic = request.into_inner().topic;
        names::check_topic(&topic, &self.limits)?;
        desk.client.check_topic_reading(&topic)?;
        let shown = self.show(&desk, &topic).await?;
        let topic = Some(self.tell(&desk, shown));
        Ok(DescribeTopicResponse { status: Some(status::ok()), topic })
    }

    pub(super) async fn on_list_topics(
        &self,
        request: Request<ListTopicsRequest>,
    ) -> Result<ListTopicsResponse, Fault> {
        let desk = self.desk(&request, Office::Manager).await?;
        let after = request.into_inner().page_token;
        let after = (!after.is_empty()).then_some(after);
        let page = self.broker.list_topics(desk.namespace(), after).await?;
        let seen = page.items.into_iter();
        let seen = seen.filter(|shown| desk.client.check_topic_reading(&shown.name).is_ok());
        Ok(ListTopicsResponse {
            status: Some(status::ok()),
            topics: seen.map(|shown| self.tell(&desk, shown)).collect(),
            next_page_token: page.next.unwrap_or_default(),
        })
    }

    pub(super) async fn on_list_lite_topics(
        &self,
        request: Request<ListLiteTopicsRequest>,
    ) -> Result<ListLiteTopicsResponse, Fault> {
        let desk = self.desk(&request, Office::Manager).await?;
        let ListLiteTopicsRequest { topic, page_token } = request.into_inner();
        names::check_topic(&topic, &self.limits)?;
        self.show(&desk, &topic).await?;
        let after = (!page_token.is_empty()).then_some(page_token);
        let lite_topics = desk.client.list_branches(topic, after, LITES_MAX).await?;
        let last = lite_topics.last().filter(|_| lite_topics.len() == LITES_MAX);
        let next_page_token = last.cloned().unwrap_or_default();
        Ok(ListLiteTopicsResponse { status: Some(status::ok()), lite_topics, next_page_token })
    }

    /// A topic that must be there.
    pub(super) async fn show(&self, desk: &Desk, topic: &str) -> Result<TopicShown, Fault> {
        let shown = self.broker.show_topic(desk.namespace(), topic).await?;
        shown.ok_or_else(|| Fault::no_topic(topic))
    }

    fn tell(&self, desk: &Desk, shown: TopicShown) -> Topic {
        let kind = self.type_of(desk.namespace(), &shown.name);
        let retention = shown.terms.keeps.filter(|keeps| *keeps != Keeps::default());
        let has_offsets = !is_ranked(&shown);
        Topic {
            r#type: kind.unwrap_or(MessageType::Unspecified) as i32,
            retention: retention.map(|keeps| Retention {
                age: keeps.age_max_ms.map(duration),
                bytes: keeps.bytes_max,
            }),
            messages: shown.records,
            bytes: shown.bytes,
            first_offset: has_offsets.then(|| said(shown.first)),
            next_offset: has_offsets.then(|| said(shown.next)),
            groups: shown.groups,
            name: shown.name,
        }
    }
}

/// Whether its offsets are in no order of time.
pub(super) fn is_ranked(shown: &TopicShown) -> bool {
    shown.terms.priority_max > 0
}

fn message_type(number: i32) -> Result<MessageType, Fault> {
    let kind = MessageType::try_from(number);
    kind.map_err(|_| Fault::new(Code::BadRequest, "there is no such type of messages"))
}

fn keeps(retention: Option<Retention>) -> Result<Option<Keeps>, Fault> {
    let Some(Retention { age, bytes }) = retention else { return Ok(None) };
    let bad =
        || Fault::new(Code::BadRequest, "a retention is longer than 0 ms and larger than 0 bytes");
    let age = age.map(|age| duration_ms(&age).filter(|ms| *ms > 0).ok_or_else(bad)).transpose()?;
    if bytes == Some(0) {
        return Err(bad());
    }
    Ok(Some(Keeps { age_max_ms: age, bytes_max: bytes }))
}

//! Where the messages of a topic are: one queue of one broker, this one.
//!
//! Several advertised queues would only split a simple consumer's polls; order by message group
//! is kept within the one queue.

use tonic::Request;

use super::{
    Front,
    calls::{Call, name},
};
use crate::codec::{
    names,
    proto::{
        Address, AddressScheme, Assignment, Broker, Code, Endpoints, MessageQueue, MessageType,
        Permission, QueryAssignmentRequest, QueryAssignmentResponse, QueryRouteRequest,
        QueryRouteResponse, Resource,
    },
    status::{self, Fault},
};

/// Part of what clients compare routes by: it never changes.
const BROKER_NAME: &str = "broker-0";
/// "Any queue" of a group that reads without order.
const ANY_QUEUE: i32 = -1;
/// What producers may send to a topic of no declared type, by their own check. Clients of version 5.0 do not start when they
/// find a type that is newer than they are, so priorities are taken but not named.
const ACCEPTED: [MessageType; 4] =
    [MessageType::Normal, MessageType::Fifo, MessageType::Delay, MessageType::Transaction];

impl Front {
    pub(super) async fn on_query_route(
        &self,
        request: Request<QueryRouteRequest>,
    ) -> Result<QueryRouteResponse, Fault> {
        let call = self.call(&request, request.get_ref().topic.as_ref()).await?;
        let request = request.into_inner();
        let queue = self.queue(&call, request.topic.as_ref(), request.endpoints).await?;
        Ok(QueryRouteResponse { status: Some(status::ok()), message_queues: vec![queue] })
    }

    /// Every member of a group is assigned everything: a message goes to whoever asks first.
    pub(super) async fn on_query_assignment(
        &self,
        request: Request<QueryAssignmentRequest>,
    ) -> Result<QueryAssignmentResponse, Fault> {
        let call = self.call(&request, request.get_ref().topic.as_ref()).await?;
        let request = request.into_inner();
        let group = name(request.group.as_ref());
        names::check_group(group, &self.limits)?;
        let mut queue = self.queue(&call, request.topic.as_ref(), request.endpoints).await?;
        let topic = name(request.topic.as_ref());
        let is_lite = call.member.is_lite();
        if !is_lite && !self.reads_in_order(&call.member.namespace, group, [topic]) {
            queue.id = ANY_QUEUE;
        }
        let assignments = vec![Assignment { message_queue: Some(queue) }];
        Ok(QueryAssignmentResponse { status: Some(status::ok()), assignments })
    }

    async fn queue(
        &self,
        call: &Call,
        topic: Option<&Resource>,
        endpoints: Option<Endpoints>,
    ) -> Result<MessageQueue, Fault> {
        names::check_topic(name(topic), &self.limits)?;
        let endpoints = self.endpoints(endpoints)?;
        self.open_topic(&call.member.client, name(topic)).await?;
        Ok(MessageQueue {
            topic: topic.cloned(),
            id: 0,
            permission: Permission::ReadWrite as i32,
            // Clients drop queues of brokers that are not number 0, the main one.
            broker: Some(Broker {
                name: BROKER_NAME.to_owned(),
                id: 0,
                endpoints: Some(endpoints),
            }),
            accept_message_types: match self.type_of(&call.member.namespace, name(topic)) {
                Some(kind) => vec![kind as i32],
                None => ACCEPTED.map(|kind| kind as i32).to_vec(),
            },
        })
    }

    /// The address clients go on with: the very one they were configured with, which is right
    /// behind any port mapping, unless the operator names one.
    fn endpoints(&self, asked: Option<Endpoints>) -> Result<Endpoints, Fault> {
        let illegal = |why| Fault::new(Code::IllegalAccessPoint, why);
        let asked = asked.ok_or_else(|| illegal("the request has no endpoints"))?;
        if asked.scheme() == AddressScheme::Unspecified || asked.addresses.is_empty() {
            return Err(illegal("the endpoints have no scheme or no address"));
        }
        let Some((host, port)) =
            self.limits.advertised_address.as_deref().and_then(|text| text.rsplit_once(':'))
        else {
            return Ok(asked);
        };
        let scheme = match host.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V4(_)) => AddressScheme::IPv4,
            Ok(std::net::IpAddr::V6(_)) => AddressScheme::IPv6,
            Err(_) => AddressScheme::DomainName,
        };
        let port = port.parse().map_err(|_| illegal("advertised_address has no port"))?;
        let addresses = vec![Address { host: host.to_owned(), port }];
        Ok(Endpoints { scheme: scheme as i32, addresses })
    }

    /// Whether a group reads these topics in order: because the configuration or an operator says so, or
    /// because one of them has been sent messages with a message group.
    pub(super) fn reads_in_order<'a>(
        &self,
        namespace: &str,
        group: &str,
        topics: impl IntoIterator<Item = &'a str>,
    ) -> bool {
        self.group_terms(namespace, group).ordered == Some(true)
            || topics.into_iter().any(|topic| self.topics.is_ordered(namespace, topic))
    }
}

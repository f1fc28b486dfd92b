//! Dead letters, sent again to where they died.

use mainstem_broker::{
    Claim, Client, Delivery, DeliveryPolicy, Fetch, Office, Publish, Published, Start,
};
use mainstem_schemas::{DeliveryId, Settlement, Verdict};
use tonic::Request;

use super::Desk;
use crate::{
    codec::{
        names,
        operator::{RedriveDeadLettersRequest, RedriveDeadLettersResponse},
        proto::{Code, Message, Resource},
        status::{self, Fault},
    },
    normalize::{self, Arrival},
    serve::Front,
};

/// The group that has read what was sent again. No client's can have this name.
const REDRIVE: &str = "mainstem.redrive";
/// Messages that are under way at a time.
const TOGETHER: usize = 64;
/// Messages that cannot be sent, after which no more are tried.
const REFUSED_MAX: u64 = 1000;

/// What became of them.
#[derive(Default)]
struct Tally {
    sent: u64,
    refused: u64,
    /// Why the first one was refused.
    why: Option<Fault>,
}

impl Front {
    pub(super) async fn on_redrive(
        &self,
        request: Request<RedriveDeadLettersRequest>,
    ) -> Result<RedriveDeadLettersResponse, Fault> {
        let desk = self.desk(&request, Office::Manager).await?;
        let RedriveDeadLettersRequest { group, messages_max } = request.into_inner();
        names::check_group(&group, &self.limits)?;
        let dead = normalize::dead_letters(&group);
        desk.client.check_group(&dead, &group)?;
        let shown = self.show(&desk, &dead).await?;
        let max = match messages_max {
            0 => shown.records,
            max => u64::from(max),
        };
        let place = self.redriving.try_acquire();
        let _place =
            place.map_err(|_| Fault::new(Code::TooManyRequests, "a redrive is under way"))?;
        let (own, _inbox) = self.broker.own_client(desk.namespace()).await?;
        let mut tally = Tally::default();
        let ended = self.redrive(&desk, &own, &dead, (max, &mut tally)).await;
        // What was taken and not sent comes back with that.
        own.close().await;
        let Tally { sent, refused, why } = tally;
        let fault = ended.err().or(why);
        let status = fault.map_or_else(status::ok, |fault| fault.status());
        Ok(RedriveDeadLettersResponse { status: Some(status), messages: sent, refused })
    }

    async fn redrive(
        &self,
        desk: &Desk,
        own: &Client,
        dead: &str,
        (max, tally): (u64, &mut Tally),
    ) -> Result<(), Fault> {
        let (topic, group) = (dead.to_owned(), REDRIVE.to_owned());
        let policy = DeliveryPolicy::default();
        let group = match own.find_group(topic.clone(), group.clone()).await? {
            Some(_) => own.open_group(topic, group, policy).await?,
            None => own.move_group(topic, group, Start::First, policy).await?.group,
        };
        while tally.sent < max && tally.refused < REFUSED_MAX {
            let left = usize::try_from(max - tally.sent).unwrap_or(TOGETHER);
            let fetch = Fetch { group, max: left.min(TOGETHER), claim: Claim::Client, wait_ms: 1 };
            let mut deliveries = own.fetch(fetch).await?;
            if deliveries.is_empty() {
                return Ok(());
            }
            own.resolve(&mut deliveries).await?;
            for delivery in deliveries {
                match self.send_again(desk, &delivery).await {
                    Ok(is_sent) => {
                        settle(own, delivery.id).await?;
                        tally.sent += u64::from(is_sent);
                    }
                    // The store is at its end, and not this message.
                    Err(fault) if fault.code == Code::InternalServerError => return Err(fault),
                    // It stays in hand, so that the next ones come.
                    Err(fault) => {
                        tally.refused += 1;
                        tally.why.get_or_insert(fault);
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends a dead letter to the topic where it died, with the operator's rights; tells whether it is one.
    async fn send_again(&self, desk: &Desk, delivery: &Delivery) -> Result<bool, Fault> {
        let Some(record) = &delivery.record else { return Ok(false) };
        let death = delivery.passage.as_ref().and_then(|passage| passage.deaths.first());
        // Whoever sent something there by name gets nothing back.
        let Some(death) = death else { return Ok(false) };
        let topic =
            death.queue.split_once('/').map_or(&*death.queue, |(above, _)| above).to_owned();
        desk.client.check_writing(&topic)?;
        let resource = Resource { name: topic.clone(), ..Resource::default() };
        let message: Message =
            normalize::message(record, resource, |record| self.broker.view(record));
        self.ensure_topic(&desk.client, &topic).await?;
        self.ensure_lites(&desk.client, &topic, std::slice::from_ref(&message)).await?;
        let stamp = desk.client.stamp();
        let arrival = Arrival { namespace: desk.namespace(), topic: &topic, stamp };
        let record = normalize::record(message, arrival)
            .map_err(|error| Fault::new(Code::MessagePropertiesTooLarge, error.to_string()))?;
        let published = self.publish(&desk.client, &topic, vec![Publish::new(record)]).await?;
        match published.into_iter().next() {
            Some(Published::Refused(refusal)) => Err(refusal.into()),
            Some(Published::Taken { .. } | Published::Held(_) | Published::Again) | None => {
                Ok(true)
            }
        }
    }
}

async fn settle(own: &Client, id: DeliveryId) -> Result<(), Fault> {
    let done = Settlement { id, verdict: Verdict::Accept };
    own.settle_durably(vec![done]).await?;
    Ok(())
}

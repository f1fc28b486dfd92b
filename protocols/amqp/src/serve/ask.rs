//! The session's questions, put to the store.

use mainstem_broker::Client;

use crate::session::{Answer, Answered, Request};

/// Asks, and waits for the answer.
pub(crate) async fn ask(client: &Client, request: Request) -> Answered {
    Ok(match request {
        Request::DeclareExchange(def) => {
            let request = mainstem_broker::DeclareExchange { def };
            Answer::Exchange(client.declare_exchange(request).await?)
        }
        Request::FindExchange(name) => Answer::ExchangeFound(client.find_exchange(name).await?),
        Request::DeleteExchange { name, if_unused } => {
            client.delete_exchange(name, if_unused).await?;
            Answer::Done
        }
        Request::DeclareQueue(def) => {
            Answer::Queue(client.declare_queue(mainstem_broker::DeclareQueue { def }).await?)
        }
        Request::FindQueue(name) => Answer::Queue(client.find_queue(name).await?),
        Request::DeleteQueue { name, if_unused, if_empty } => {
            Answer::Count(client.delete_queue(name, if_unused, if_empty).await?)
        }
        Request::PurgeQueue(name) => Answer::Count(client.purge_queue(name).await?),
        Request::Bind(bind) => {
            client.bind(bind).await?;
            Answer::Done
        }
        Request::Unbind(bind) => {
            client.unbind(bind).await?;
            Answer::Done
        }
        Request::Consume(consume) => {
            client.consume(consume).await?;
            Answer::Done
        }
        Request::Cancel(consumer) => {
            let _existed = client.cancel(consumer).await?;
            Answer::Done
        }
        Request::Get { queue, settle_at_once } => {
            let Some((delivery, stats)) = client.get(queue, settle_at_once).await? else {
                return Ok(Answer::Got(None));
            };
            let mut deliveries = vec![delivery];
            client.resolve(&mut deliveries).await?;
            Answer::Got(deliveries.pop().map(|delivery| (delivery, stats)))
        }
        Request::Barrier => Answer::Done,
    })
}

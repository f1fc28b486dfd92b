//! Over MQTT 5.

use std::time::Duration;

use rumqttc::v5::{
    AsyncClient, Event, EventLoop, MqttOptions,
    mqttbytes::{
        QoS,
        v5::{
            Packet, PubAckReason, PubCompReason, PubRecReason, Publish, PublishProperties,
            SubscribeReasonCode,
        },
    },
};
use serde_json::{Map, Value as Json};

use super::{Failure, Options, Received};
use crate::Config;

/// Requests that wait for the event loop.
const REQUESTS_MAX: usize = 16;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const PACKET_BYTES_MAX: u32 = 256 << 20;
/// How long the server may take to confirm a publish.
const CONFIRM: Duration = Duration::from_secs(60);

pub(super) struct Client {
    client: AsyncClient,
    events: EventLoop,
    qos: QoS,
}

impl Client {
    pub(super) async fn connect(options: &Options, config: &Config) -> Result<Self, Failure> {
        let (host, port) = options.host_and_port(config).map_err(Failure::unavailable)?;
        let name = format!("mainstem-{}", std::process::id());
        let mut settings = MqttOptions::new(name, host, port);
        settings.set_keep_alive(KEEP_ALIVE).set_max_packet_size(Some(PACKET_BYTES_MAX));
        settings.set_manual_acks(true);
        if let Some((user, password)) = &options.login {
            settings.set_credentials(user, password);
        }
        let qos = match options.qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        let (client, events) = AsyncClient::new(settings, REQUESTS_MAX);
        let mut client = Self { client, events, qos };
        loop {
            let event = client.events.poll().await.map_err(Failure::unavailable)?;
            if let Event::Incoming(Packet::ConnAck(_)) = event {
                return Ok(client);
            }
        }
    }

    pub(super) async fn publish(&mut self, options: &Options, body: &[u8]) -> Result<(), Failure> {
        let properties = PublishProperties {
            user_properties: options.headers.clone(),
            ..PublishProperties::default()
        };
        let (name, body) = (options.name.clone(), body.to_vec());
        self.client
            .publish_with_properties(name, self.qos, options.retain, body, properties)
            .await
            .map_err(Failure::refused)?;
        let confirmed = async {
            loop {
                let event = self.events.poll().await.map_err(Failure::refused)?;
                if let Some(end) = end(&event, self.qos) {
                    return end;
                }
            }
        };
        match tokio::time::timeout(CONFIRM, confirmed).await {
            Ok(end) => end,
            Err(_) => Err(Failure::refused(format!("the server confirms nothing in {CONFIRM:?}"))),
        }
    }

    pub(super) async fn subscribe(&mut self, options: &Options) -> Result<(), Failure> {
        let asked = self.client.subscribe(options.name.clone(), self.qos).await;
        asked.map_err(Failure::refused)?;
        loop {
            let event = self.events.poll().await.map_err(Failure::refused)?;
            let Event::Incoming(Packet::SubAck(answer)) = event else { continue };
            let odd =
                |code: &&SubscribeReasonCode| !matches!(code, SubscribeReasonCode::Success(_));
            return match answer.return_codes.iter().find(odd) {
                None => Ok(()),
                Some(code) => Err(Failure::refused(format!("the server refuses it: {code:?}"))),
            };
        }
    }

    pub(super) async fn next(&mut self) -> Result<Received, Failure> {
        loop {
            let event = self.events.poll().await.map_err(Failure::refused)?;
            let Event::Incoming(Packet::Publish(publish)) = event else { continue };
            self.client.ack(&publish).await.map_err(Failure::refused)?;
            let Publish { topic, payload, properties, .. } = publish;
            let properties = properties.unwrap_or_default().user_properties.into_iter();
            let properties: Map<String, Json> =
                properties.map(|(name, value)| (name, Json::from(value))).collect();
            return Ok(Received {
                name: String::from_utf8_lossy(&topic).into_owned(),
                properties: Json::Object(properties),
                body: payload.to_vec(),
            });
        }
    }

    pub(super) async fn close(mut self) {
        // What was received is acknowledged before. It ends all the same when this fails.
        let _asked = self.client.disconnect().await;
        let goodbye = async {
            while !matches!(
                self.events.poll().await,
                Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) | Err(_)
            ) {}
        };
        let _late = tokio::time::timeout(Duration::from_secs(2), goodbye).await;
    }
}

/// How a publish of this quality ends, if it does with this event.
fn end(event: &Event, qos: QoS) -> Option<Result<(), Failure>> {
    let refused = |reason: &dyn std::fmt::Debug| {
        Some(Err(Failure::refused(format!("the server refuses it: {reason:?}"))))
    };
    match event {
        Event::Outgoing(rumqttc::Outgoing::Publish(_)) if qos == QoS::AtMostOnce => Some(Ok(())),
        Event::Incoming(Packet::PubAck(answer)) => match answer.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Some(Ok(())),
            reason => refused(&reason),
        },
        Event::Incoming(Packet::PubRec(answer)) => match answer.reason {
            // PUBCOMP follows.
            PubRecReason::Success | PubRecReason::NoMatchingSubscribers => None,
            reason => refused(&reason),
        },
        Event::Incoming(Packet::PubComp(answer)) => match answer.reason {
            PubCompReason::Success => Some(Ok(())),
            reason @ PubCompReason::PacketIdentifierNotFound => refused(&reason),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::v5::{PubAck, PubComp, PubRec};

    use super::*;

    #[test]
    fn a_publish_ends_as_the_server_says() {
        let told = |packet, qos| {
            let end = end(&Event::Incoming(packet), qos);
            end.map(|end| end.map_err(|failure| (failure.code, failure.text)))
        };
        let refused = || Some(Err((70, "the server refuses it: NotAuthorized".to_owned())));
        let ack = |reason| Packet::PubAck(PubAck { reason, ..PubAck::new(1, None) });
        let rec = |reason| Packet::PubRec(PubRec { reason, ..PubRec::new(1, None) });
        let once = QoS::AtLeastOnce;
        assert_eq!(told(ack(PubAckReason::Success), once), Some(Ok(())));
        assert_eq!(told(ack(PubAckReason::NoMatchingSubscribers), once), Some(Ok(())));
        assert_eq!(told(ack(PubAckReason::NotAuthorized), once), refused());
        let exactly = QoS::ExactlyOnce;
        assert_eq!(told(rec(PubRecReason::Success), exactly), None);
        assert_eq!(told(rec(PubRecReason::NotAuthorized), exactly), refused());
        assert_eq!(told(Packet::PubComp(PubComp::new(1, None)), exactly), Some(Ok(())));
    }
}

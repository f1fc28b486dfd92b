//! Over MQTT 5.

use std::time::Duration;

use rumqttc::v5::{
    AsyncClient, Event, EventLoop, MqttOptions,
    mqttbytes::{
        QoS,
        v5::{Packet, Publish, PublishProperties, SubscribeReasonCode},
    },
};
use serde_json::{Map, Value as Json};

use super::{Failure, Options, Received};
use crate::Config;

/// Requests that wait for the event loop.
const REQUESTS_MAX: usize = 16;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const PACKET_BYTES_MAX: u32 = 256 << 20;

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
        loop {
            match self.events.poll().await.map_err(Failure::refused)? {
                Event::Incoming(Packet::PubAck(_)) if self.qos == QoS::AtLeastOnce => return Ok(()),
                Event::Incoming(Packet::PubComp(_)) => return Ok(()),
                Event::Outgoing(rumqttc::Outgoing::Publish(_)) if self.qos == QoS::AtMostOnce => {
                    return Ok(());
                }
                _ => {}
            }
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

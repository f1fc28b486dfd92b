//! Clients that tell how the server ended them.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use mainstem_rocketmq::codec::proto::{
    Publishing, Resource, Settings, TelemetryCommand,
    messaging_service_client::MessagingServiceClient, settings::PubSub, telemetry_command::Command,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, metadata::MetadataValue};

const ANSWER: Duration = Duration::from_secs(20);

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    stream
}

/// An AMQP connection of guest, without a channel.
pub(super) struct RawAmqp(TcpStream);

impl RawAmqp {
    pub(super) fn connect(port: u16) -> Self {
        let mut amqp = Self(connect(port));
        amqp.0.write_all(b"AMQP\0\0\x09\x01").unwrap();
        amqp.hear((10, 10));
        amqp.say((10, 11), b"\0\0\0\0\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US");
        amqp.hear((10, 30));
        amqp.say((10, 31), &[0x07, 0xff, 0, 2, 0, 0, 0, 0]);
        amqp.say((10, 40), b"\x01/\0\0");
        amqp.hear((10, 41));
        amqp
    }

    /// The name that RabbitMQ gives it.
    pub(super) fn name(&self) -> String {
        format!("{} -> {}", self.0.local_addr().unwrap(), self.0.peer_addr().unwrap())
    }

    /// The code and text of the server's connection.close.
    pub(super) fn closed(&mut self) -> (u16, String) {
        let arguments = self.hear((10, 50));
        self.say((10, 51), &[]);
        let end = 3 + usize::from(arguments[2]);
        let text = String::from_utf8(arguments[3..end].to_vec()).unwrap();
        (u16::from_be_bytes([arguments[0], arguments[1]]), text)
    }

    fn say(&mut self, (class, method): (u16, u16), arguments: &[u8]) {
        let mut frame = vec![1, 0, 0];
        frame.extend(u32::try_from(arguments.len() + 4).unwrap().to_be_bytes());
        frame.extend([class.to_be_bytes(), method.to_be_bytes()].concat());
        frame.extend(arguments);
        frame.push(0xce);
        self.0.write_all(&frame).unwrap();
    }

    fn hear(&mut self, method: (u16, u16)) -> Vec<u8> {
        let mut head = [0; 7];
        self.0.read_exact(&mut head).unwrap();
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut payload = vec![0; usize::try_from(size).unwrap() + 1];
        self.0.read_exact(&mut payload).unwrap();
        let class = u16::from_be_bytes([payload[0], payload[1]]);
        assert_eq!((class, u16::from_be_bytes([payload[2], payload[3]])), method);
        payload.split_off(4)
    }
}

/// An MQTT 5 connection of guest.
pub(super) struct RawMqtt(TcpStream);

impl RawMqtt {
    pub(super) fn connect(port: u16, client_id: &str) -> Self {
        let text = |text: &str| {
            [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
        };
        let head = b"\0\x04MQTT\x05\xc2\0\x1e\0".to_vec();
        let body = [head, text(client_id), text("guest"), text("guest")].concat();
        let mut mqtt = Self(connect(port));
        mqtt.0.write_all(&[0x10, u8::try_from(body.len()).unwrap()]).unwrap();
        mqtt.0.write_all(&body).unwrap();
        let (first, connack) = mqtt.hear();
        assert_eq!((first, connack[1]), (0x20, 0));
        mqtt
    }

    /// The reason and its text in the server's DISCONNECT.
    pub(super) fn disconnected(&mut self) -> (u8, String) {
        let (first, body) = self.hear();
        assert_eq!((first, body[2]), (0xe0, 0x1f), "{body:?}");
        let rest = self.0.read(&mut [0]).unwrap();
        assert_eq!(rest, 0, "the socket is closed");
        (body[0], String::from_utf8(body[5..].to_vec()).unwrap())
    }

    /// The first byte of the next packet, and its body.
    fn hear(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).unwrap();
        assert!(head[1] < 0x80, "it is short");
        let mut body = vec![0; head[1].into()];
        self.0.read_exact(&mut body).unwrap();
        (head[0], body)
    }
}

/// A RocketMQ producer's telemetry stream.
pub(super) struct Telemetry {
    answers: Streaming<TelemetryCommand>,
    _said: mpsc::Sender<TelemetryCommand>,
}

impl Telemetry {
    pub(super) async fn open(port: u16, client_id: &'static str) -> Self {
        let mut grpc =
            MessagingServiceClient::connect(format!("http://127.0.0.1:{port}")).await.unwrap();
        let (said, commands) = mpsc::channel(1);
        let topic = Resource { name: "T".to_owned(), ..Resource::default() };
        let publishing = Publishing { topics: vec![topic], ..Publishing::default() };
        let pub_sub = Some(PubSub::Publishing(publishing));
        let settings = Command::Settings(Settings { pub_sub, ..Settings::default() });
        said.send(TelemetryCommand { status: None, command: Some(settings) }).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(commands));
        let headers = request.metadata_mut();
        headers.insert("x-mq-client-id", MetadataValue::from_static(client_id));
        headers.insert("x-mq-language", MetadataValue::from_static("RUST"));
        let mut answers = grpc.telemetry(request).await.unwrap().into_inner();
        let settled = timeout(ANSWER, answers.message()).await.unwrap().unwrap().unwrap();
        assert!(matches!(settled.command, Some(Command::Settings(_))));
        Self { answers, _said: said }
    }

    /// With what the server ends it.
    pub(super) async fn ended(&mut self) -> Status {
        let ended = timeout(ANSWER, self.answers.message()).await.unwrap();
        ended.expect_err("the stream ends with a status")
    }
}

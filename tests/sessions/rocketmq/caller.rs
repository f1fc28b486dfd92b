//! Calls of a client over gRPC, as bytes: what they say need not be a message.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use mainstem_rocketmq::codec::proto::{Code, HeartbeatResponse};
use prost::Message;
use tokio::time;
use tokio_stream::{Stream, StreamExt};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

/// How long an answer may take; polls are asked to be shorter.
const ANSWER: Duration = Duration::from_secs(20);
/// What the server answers when it does not know what happened.
const FAILED: [i32; 2] = [Code::InternalError as i32, Code::InternalServerError as i32];

/// Bytes as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A connection that calls for one client.
#[derive(Clone)]
pub struct Caller {
    grpc: Grpc<Channel>,
    pub client_id: Vec<u8>,
}

/// What came of a call.
pub struct Answered {
    pub messages: Vec<Bytes>,
    /// The status in the last answer's body; 0 when it has none.
    pub code: i32,
    /// It was refused below, as gRPC does what it cannot read.
    pub is_refused: bool,
}

impl Caller {
    pub async fn connect(port: u16, client_id: &str) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
        let channel =
            endpoint.connect().await.map_err(|error| format!("cannot connect: {error}"))?;
        Ok(Self { grpc: Grpc::new(channel), client_id: client_id.as_bytes().to_vec() })
    }

    fn request<T>(&self, body: T) -> Request<T> {
        let mut request = Request::new(body);
        if let Ok(client_id) = MetadataValue::try_from(self.client_id.as_slice()) {
            request.metadata_mut().insert("x-mq-client-id", client_id);
        }
        request
    }

    /// Says so many things in one call, and hears everything that is answered. Errors: nothing is
    /// answered in time, or that the server has failed.
    pub async fn call(
        &mut self,
        name: &str,
        said: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Answered, String> {
        let path = format!("/apache.rocketmq.v2.MessagingService/{name}");
        let request = self.request(said);
        let answer = async {
            self.grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let path = PathAndQuery::try_from(path).unwrap();
            let mut parts = self.grpc.streaming(request, path, Raw).await?.into_inner();
            let mut messages = Vec::new();
            while let Some(part) = parts.next().await {
                messages.push(part?);
            }
            Ok::<_, Status>(messages)
        };
        match time::timeout(ANSWER, answer).await {
            Err(_) => Err(format!("{name} is not answered")),
            Ok(Err(_)) => Ok(Answered { messages: Vec::new(), code: 0, is_refused: true }),
            Ok(Ok(messages)) => {
                // Every answer has its status in the same place.
                let statuses = messages
                    .iter()
                    .filter_map(|message| HeartbeatResponse::decode(message.clone()).ok()?.status);
                let code = statuses.last().map_or(0, |status| status.code);
                if FAILED.contains(&code) {
                    return Err(format!("{name} is answered with {code}"));
                }
                Ok(Answered { messages, code, is_refused: false })
            }
        }
    }
}

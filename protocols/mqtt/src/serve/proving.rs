//! Enhanced authentication (MQTT 5 §4.12): a client proves that it knows a password without sending it,
//! before CONNACK, and again whenever it likes.

use bytes::BytesMut;
use mainstem_broker::{Broker, Line, LoginError};
use mainstem_schemas::{Credentials, Secret};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::{
    Server,
    connection::{Connection, End},
    greeting::{self, Caller, Refused, login_refused},
};
use crate::{
    codec::{self, Auth, Connect, Fault, Packet, Reason, Reply, reply::Ears},
    session::scram::{Exchange, Hello, METHOD, Proof, countersigned},
};

/// An exchange that waits for the client.
#[derive(Debug)]
pub(super) enum Proving {
    /// For its first message.
    Asked,
    Challenged(Exchange),
}

/// What the client's next message leads to.
enum Step {
    Say(Proving, String),
    Proof(Proof),
}

impl Proving {
    fn step(self, data: &[u8], broker: &Broker) -> Result<Step, Fault> {
        let odd =
            Fault::new(Reason::NOT_AUTHORIZED, "a message of SCRAM-SHA-256 is not as it must be");
        match self {
            Self::Asked if data.is_empty() => Ok(Step::Say(Self::Asked, String::new())),
            Self::Asked => {
                let hello = Hello::read(data).ok_or(odd)?;
                let (_, user) = greeting::named(hello.user());
                let challenge = broker.challenge(&user).ok_or(NO_METHOD)?;
                let (nonce, salt) = (&challenge.nonce, &challenge.salt);
                let exchange = Exchange::begin(hello, nonce, salt, challenge.iterations);
                let said = exchange.challenge().to_owned();
                Ok(Step::Say(Self::Challenged(exchange), said))
            }
            Self::Challenged(exchange) => exchange.finish(data).map(Step::Proof).ok_or(odd),
        }
    }
}

const NO_METHOD: Fault =
    Fault::new(Reason::BAD_AUTH_METHOD, "[MQTT-4.12.0-1] the authentication method is not offered");

/// The data of a step, if its packet is of the method that the connection began with.
fn data_of(auth: &Auth) -> Result<&[u8], Fault> {
    if auth.method.as_str() == METHOD {
        return Ok(&auth.data);
    }
    let text = "[MQTT-4.12.0-5] the authentication method is another than in CONNECT";
    Err(Fault::new(Reason::BAD_AUTH_METHOD, text))
}

/// The exchange that a CONNECT asks for; `None` where it asks for none.
pub(super) async fn exchange<R, W>(
    server: &Server,
    connect: &Connect,
    (reader, writer): (&mut R, &mut W),
    input: &mut BytesMut,
    line: &Line,
) -> Result<Option<Proof>, Refused>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Some(method) = &connect.properties.auth_method else { return Ok(None) };
    let ears = greeting::ears(connect);
    let refused =
        |fault: Fault| Refused::With(ears.version, ears.packet_bytes_max, fault.reason, fault.text);
    if method.as_str() != METHOD {
        return Err(refused(NO_METHOD));
    }
    let mut proving = Proving::Asked;
    let mut data = connect.properties.auth_data.clone().unwrap_or_default();
    loop {
        let next = match proving.step(&data, &server.broker).map_err(refused)? {
            Step::Proof(proof) => return Ok(Some(proof)),
            Step::Say(next, said) => {
                say(&said, &ears, writer).await?;
                next
            }
        };
        proving = next;
        let frame = greeting::read_frame(reader, input, &server.limits, line).await?;
        let auth = match codec::decode(&frame, ears.version).map_err(refused)? {
            Packet::Auth(auth) => auth,
            Packet::Disconnect(_) => return Err(Refused::Silently),
            _ => return Err(refused(Fault::protocol("[MQTT-3.1.2-30] a packet before CONNACK"))),
        };
        if auth.reason != Reason::CONTINUE_AUTHENTICATION {
            let text = "[MQTT-4.12.0-3] AUTH goes on with another reason code";
            return Err(refused(Fault::protocol(text)));
        }
        data = auth.data.slice_ref(data_of(&auth).map_err(refused)?);
    }
}

async fn say<W: AsyncWrite + Unpin>(
    said: &str,
    ears: &Ears,
    writer: &mut W,
) -> Result<(), Refused> {
    let mut output = BytesMut::new();
    step(Reason::CONTINUE_AUTHENTICATION, said.to_owned()).encode(ears, &mut output);
    if output.is_empty() {
        // It takes no packet that is long enough.
        return Err(Refused::Silently);
    }
    let said = async {
        writer.write_all(&output).await?;
        writer.flush().await
    };
    said.await.map_err(|_| Refused::Silently)
}

fn step(reason: Reason, data: String) -> Reply {
    Reply::Auth { reason, method: METHOD, data }
}

/// What a proof is checked as.
pub(super) fn credentials(proof: &Proof, caller: &Caller) -> Credentials {
    let (namespace, user) = greeting::named(&proof.user);
    let said = proof.said.clone().into_bytes();
    let secret = Secret::Scram { user, said, proof: proof.proof.clone() };
    Credentials { namespace, secret, peer: caller.line.peer }
}

/// Why a client that was let in is not any more. [MQTT-3.14.2-1]: a wrong password and a server that
/// is not there have codes of their own in CONNACK only.
fn no_more(error: &LoginError) -> (Reason, &'static str) {
    let reason = match error {
        LoginError::Closed => Reason::SHUTTING_DOWN,
        LoginError::Busy => Reason::SERVER_BUSY,
        LoginError::BadCredentials
        | LoginError::LoopbackOnly
        | LoginError::NoNamespace
        | LoginError::NoAccess => Reason::NOT_AUTHORIZED,
    };
    (reason, login_refused(error).1)
}

/// What CONNACK says to a client that proved who it is.
pub(super) fn last_word(broker: &Broker, proof: &Proof) -> (&'static str, String) {
    let (_, user) = greeting::named(&proof.user);
    (METHOD, countersigned(&broker.countersign(&user, proof.said.as_bytes())))
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// The client proves once more who it is, and must turn out to be the same.
    pub(super) fn prove(&mut self, auth: &Auth) -> Result<(), End> {
        let Some(under_way) = &mut self.proving else {
            let text = "[MQTT-4.12.0-1] AUTH without an authentication method";
            return Err(End::Fault(Fault::protocol(text)));
        };
        let data = data_of(auth).map_err(End::Fault)?;
        let proving = match (auth.reason, under_way.take()) {
            (Reason::REAUTHENTICATE, None) => Proving::Asked,
            (Reason::CONTINUE_AUTHENTICATION, Some(proving)) => proving,
            _ => {
                let text = "[MQTT-4.12.1-1] an AUTH is not the exchange's next";
                return Err(End::Fault(Fault::protocol(text)));
            }
        };
        match proving.step(data, &self.server.broker).map_err(End::Fault)? {
            Step::Say(next, said) => {
                **under_way = Some(next);
                self.send(&step(Reason::CONTINUE_AUTHENTICATION, said));
            }
            Step::Proof(proof) => {
                let caller = Caller::by(self.line.clone());
                let verified = self.server.broker.verify(&credentials(&proof, &caller));
                let refused = match verified {
                    Ok(principal) if principal == *self.client.principal() => None,
                    Ok(_) => Some((Reason::NOT_AUTHORIZED, "the client is somebody else now")),
                    Err(error) => Some(no_more(&error)),
                };
                if let Some((reason, text)) = refused {
                    return Err(End::Fault(Fault::new(reason, text)));
                }
                let (_, last) = last_word(&self.server.broker, &proof);
                self.send(&step(Reason::SUCCESS, last));
            }
        }
        Ok(())
    }
}

//! From a socket's first bytes to a session: CONNECT, login, take-over, CONNACK.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use mainstem_broker::{
    Client, Entered, Inbox, Introduction, Line, LoginError, OpenSession, Publish as Offer, Refusal,
    Scope, SessionOpened, Unsettled,
};
use mainstem_schemas::{Credentials, Secret, Value};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::Instant,
};

use super::{
    Server,
    connection::{Connection, Identity},
    noted::{self, notes},
    parking,
    peers::Holder,
    proving::{self, last_word},
    wills,
};
use crate::{
    Limits,
    codec::{ConnAck, Connect, Fault, Frame, Reason, Version, connect, frame, reply::Ears},
    normalize::{Message, publisher_hash},
    session::{
        Noted, Options, Session, Terms,
        scram::{METHOD, Proof},
    },
};

/// Who opened the connection, as far as can be seen before its first word.
#[derive(Debug)]
pub(super) struct Caller {
    /// What is written may stay in the TLS session, where there is one, until it is flushed.
    pub(super) line: Arc<Line>,
    /// The common name in its certificate, if it showed one that was verified.
    pub(super) certified: Option<String>,
    /// That it knows a password, if it proved that.
    pub(super) proof: Option<Proof>,
}

impl Caller {
    /// One of whom nothing but the socket is known.
    pub(super) fn by(line: Arc<Line>) -> Self {
        Self { line, certified: None, proof: None }
    }
}

/// Why a connection got no further than its greeting.
pub(super) enum Refused {
    /// Nothing can be said to this peer.
    Silently,
    /// In this version, within so many bytes.
    With(Version, usize, Reason, &'static str),
}

impl From<Fault> for Refused {
    fn from(_: Fault) -> Self {
        Self::Silently
    }
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Reads the CONNECT and opens the session. `None` when the peer was refused, and told so.
    pub(super) async fn greet(
        server: Arc<Server>,
        mut reader: R,
        mut writer: W,
        mut caller: Caller,
    ) -> Option<Self> {
        let mut input = BytesMut::new();
        let patience = Duration::from_millis(server.limits.connect_timeout_ms);
        let greeting = async {
            let line = &caller.line;
            let connect = read_connect(&mut reader, &mut input, &server.limits, line).await?;
            let socket = (&mut reader, &mut writer);
            let proof = proving::exchange(&server, &connect, socket, &mut input, line).await?;
            Ok((connect, proof))
        };
        // A stranger does not hold up the shutdown.
        let greeting = tokio::time::timeout(patience, greeting);
        let greeting = match server.shutdown.run_until_cancelled(greeting).await {
            Some(Ok(greeting)) => greeting,
            Some(Err(_)) | None => Err(Refused::Silently),
        };
        let opened = match greeting {
            Ok((connect, proof)) => {
                caller.proof = proof;
                open(&server, connect, &caller).await
            }
            Err(refused) => Err(refused),
        };
        match opened {
            Ok(opened) => {
                let socket = (reader, writer, caller.line);
                let mut connection = Self::begin(server, opened, socket, input);
                connection.keep_will().await;
                Some(connection)
            }
            Err(Refused::Silently) => None,
            Err(Refused::With(version, bytes_max, reason, text)) => {
                let peer = caller.line.peer;
                tracing::info!(%peer, ?reason, text, "an mqtt connection was refused");
                let mut output = BytesMut::new();
                let refusal = ConnAck::refused(reason, text);
                // What does not fit is not sent; the connection ends all the same.
                let _fits = refusal.encode(version, bytes_max, &mut output);
                // A peer that does not take its refusal is gone, which is what we wanted.
                let goodbye = Duration::from_millis(server.limits.goodbye_ms);
                let _refused = tokio::time::timeout(goodbye, async {
                    writer.write_all(&output).await?;
                    writer.shutdown().await
                })
                .await;
                None
            }
        }
    }
}

/// The next packet of somebody who is not let in yet: CONNECT or AUTH, or a DISCONNECT.
pub(super) async fn read_frame<R: AsyncRead + Unpin>(
    reader: &mut R,
    input: &mut BytesMut,
    limits: &Limits,
    line: &Line,
) -> Result<Frame, Refused> {
    let bytes_max = limits.connect_bytes_max.min(limits.packet_bytes_max) as usize;
    loop {
        if let Some(frame) = frame::next(input, bytes_max)? {
            return Ok(frame);
        }
        if input.first().is_some_and(|first| !matches!(first, 0x10 | 0xe0 | 0xf0)) {
            return Err(Refused::Silently);
        }
        match reader.read_buf(input).await {
            Ok(0) | Err(_) => return Err(Refused::Silently),
            Ok(bytes) => line.received.add(bytes),
        }
    }
}

async fn read_connect<R: AsyncRead + Unpin>(
    reader: &mut R,
    input: &mut BytesMut,
    limits: &Limits,
    line: &Line,
) -> Result<Connect, Refused> {
    let frame = read_frame(reader, input, limits, line).await?;
    let connect = connect::decode(&frame).map_err(|(version, fault)| match version {
        // Before MQTT 5 malformed bytes have no return code.
        Some(version) if version == Version::V5 || fault.reason == Reason::UNSUPPORTED_VERSION => {
            Refused::With(version, usize::MAX, fault.reason, fault.text)
        }
        _ => Refused::Silently,
    })?;
    check(&connect)?;
    Ok(connect)
}

fn check(connect: &Connect) -> Result<(), Refused> {
    let bytes_max = packet_bytes_max(connect);
    let refused = |reason, text| Err(Refused::With(connect.version, bytes_max, reason, text));
    let needs_id = match connect.version {
        Version::V31 => true,
        Version::V311 => !connect.clean,
        Version::V5 => false,
    };
    if needs_id && connect.client_id.is_empty() {
        // [MQTT-3.1.3-8]
        return refused(Reason::CLIENT_ID_INVALID, "the client identifier is empty");
    }
    Ok(())
}

/// Everything a CONNECT led to.
pub(super) struct Opened {
    pub(super) client: Client,
    pub(super) inbox: Inbox,
    pub(super) entered: Entered,
    pub(super) holder: Holder,
    pub(super) connect: Connect,
    pub(super) identity: Identity,
    pub(super) session: Session,
    pub(super) session_expiry_s: u32,
    pub(super) found: SessionOpened,
    pub(super) connack: ConnAck,
    pub(super) ears: Ears,
}

async fn open(server: &Arc<Server>, connect: Connect, caller: &Caller) -> Result<Opened, Refused> {
    let version = connect.version;
    let bytes_max = packet_bytes_max(&connect);
    let refused = |reason, text| Refused::With(version, bytes_max, reason, text);
    let credentials = credentials(&connect, caller);
    let logged_in = server.broker.login(&credentials).await.map_err(|error| login_refused(&error));
    let (client, inbox) = logged_in.map_err(|(reason, text)| refused(reason, text))?;
    let assigned = connect.client_id.is_empty().then(|| format!("ms-{}", client.stamp().id));
    let client_id = assigned.clone().unwrap_or_else(|| connect.client_id.as_str().to_owned());
    client.set_client_id(&client_id);
    if !may_leave_will(server, &client, &client_id, &connect) {
        return Err(refused(Reason::NOT_AUTHORIZED, "the client may not publish its will"));
    }
    let namespace = client.principal().namespace.clone();
    // Twice the time for farewells: the holder may need it for its socket and for its session.
    let patience = Duration::from_millis(server.limits.goodbye_ms.saturating_mul(2));
    let key = (namespace.clone(), client_id.clone());
    if server.flapping.is_banned(&key, &server.limits, Instant::now()) {
        return Err(refused(Reason::BANNED, "the client came and went too often"));
    }
    let holder = server.peers.take(key, connect.clean, patience).await;
    // The one that had the client id is counted no more.
    let mut introduction = introduction(&connect, caller, &credentials, &client_id);
    introduction.heartbeat_s = keep_alive_s(connect.keep_alive_s, &server.limits);
    let entered = server.broker.enter(&client, introduction);
    let entered = entered.map_err(|over| refused(Reason::QUOTA_EXCEEDED, too_many(&over.scope)))?;
    let limits = &server.limits;
    let session_expiry_s = session_expiry_s(&connect, limits);
    let in_flight_max = in_flight_max(&connect, limits);
    let open = OpenSession {
        id: client_id.clone(),
        clean: connect.clean,
        expiry_s: session_expiry_s,
        limit: u32::from(in_flight_max),
    };
    let (mut found, runs) = open_session(&client, open)
        .await
        .map_err(|_| refused(Reason::SERVER_UNAVAILABLE, "the session cannot be opened"))?;
    let keep_alive_s = keep_alive_s(connect.keep_alive_s, limits);
    let terms = Terms {
        version,
        keep_alive_s,
        session_expiry_s,
        client_receive_max: in_flight_max,
        receive_max: limits.receive_max,
        topic_alias_max: limits.topic_alias_max,
    };
    let reserved_max = usize::from(limits.in_flight_max.max(limits.v3_in_flight_max));
    let session = start_session(terms, &mut found, &runs, reserved_max);
    let is_assigned = assigned.is_some();
    let mut connack = connack(&connect, terms, assigned, found.present, limits);
    connack.auth = caller.proof.as_ref().map(|proof| last_word(&server.broker, proof));
    if connect.properties.wants_response_info {
        connack.response_info = response_info(&client_id, limits);
    }
    let ears = ears(&connect);
    let publisher = publisher_hash(&namespace, &client_id);
    let identity = Identity { namespace, client_id, is_assigned, publisher };
    Ok(Opened {
        client,
        inbox,
        entered,
        holder,
        connect,
        identity,
        session,
        session_expiry_s,
        found,
        connack,
        ears,
    })
}

/// The session as it is kept, and how far its runs of packet identifiers are.
async fn open_session(
    client: &Client,
    open: OpenSession,
) -> Result<(SessionOpened, Vec<(Noted, Unsettled)>), Refusal> {
    let found = client.open_session(open).await?;
    // Apart from the rest, since it is rare.
    let runs = Box::pin(noted::unsettled(client, noted::runs(&found))).await?;
    Ok((found, runs))
}

/// A will is published by the server when its client is gone: whether that may is asked now.
fn may_leave_will(
    server: &Arc<Server>,
    client: &Client,
    client_id: &str,
    connect: &Connect,
) -> bool {
    let Some(will) = connect.will.clone() else { return true };
    let sender = wills::sender(server, connect.version, &client.principal().namespace, client_id);
    // One that cannot be published is told of when it would be.
    let record = Message::from(will).record(&sender, client.stamp());
    record.is_err() || record.is_ok_and(|record| client.may_publish(&Offer::new(record)).is_ok())
}

/// What the client wants to hear.
pub(super) fn ears(connect: &Connect) -> Ears {
    Ears {
        version: connect.version,
        packet_bytes_max: packet_bytes_max(connect),
        wants_problem_info: connect.properties.wants_problem_info,
    }
}

pub(super) fn login_refused(error: &LoginError) -> (Reason, &'static str) {
    match error {
        LoginError::BadCredentials => (Reason::BAD_CREDENTIALS, "wrong name or password"),
        LoginError::LoopbackOnly => {
            (Reason::NOT_AUTHORIZED, "this account may log in from loopback only")
        }
        LoginError::NoNamespace => (Reason::NOT_AUTHORIZED, "no such namespace"),
        LoginError::NoAccess => {
            (Reason::NOT_AUTHORIZED, "this account may do nothing in that namespace")
        }
        LoginError::Busy => (Reason::SERVER_BUSY, "too many logins wait to be looked at"),
        LoginError::Closed => (Reason::SERVER_UNAVAILABLE, "the server shuts down"),
    }
}

/// What an operator sees of it. The properties are those that RabbitMQ shows.
fn introduction(
    connect: &Connect,
    caller: &Caller,
    credentials: &Credentials,
    client_id: &str,
) -> Introduction {
    Introduction {
        line: caller.line.clone(),
        protocol: match connect.version {
            Version::V31 => "MQTT 3-1",
            Version::V311 => "MQTT 3-1-1",
            Version::V5 => "MQTT 5-0",
        },
        mechanism: match credentials.secret {
            Secret::Anonymous => "ANONYMOUS",
            Secret::Password { .. } => "PLAIN",
            Secret::Certificate { .. } => "EXTERNAL",
            Secret::Scram { .. } => METHOD,
            Secret::Signature { .. } | Secret::Token(_) => "",
        },
        client_id: client_id.to_owned(),
        properties: vec![("client_id".to_owned(), Value::Text(client_id.to_owned()))],
        frame_bytes_max: connect.properties.packet_bytes_max.unwrap_or(0),
        heartbeat_s: 0,
        channels_max: 0,
    }
}

fn too_many(scope: &Scope) -> &'static str {
    match scope {
        Scope::Namespace(_) => "the namespace has as many connections as it may",
        Scope::User(_) => "the user has as many connections as it may",
    }
}

/// The session, with what its last connection left under way.
fn start_session(
    terms: Terms,
    found: &mut SessionOpened,
    runs: &[(Noted, Unsettled)],
    reserved_max: usize,
) -> Session {
    let mut session = Session::new(terms, Duration::ZERO);
    let parcel = found.parcel.take().filter(|_| found.present);
    if let Some(parked) = parcel.and_then(parking::open) {
        session.resume(parked);
    }
    session.outbound.remember(notes(found), reserved_max);
    for (noted, unsettled) in runs {
        session.outbound.remember_run(*noted, &unsettled.ranges, unsettled.next);
    }
    session
}

/// The client's maximum packet size.
fn packet_bytes_max(connect: &Connect) -> usize {
    connect.properties.packet_bytes_max.map_or(usize::MAX, |max| max as usize)
}

/// Topics that are the client's alone, if its identifier may stand in a topic.
fn response_info(client_id: &str, limits: &Limits) -> Option<String> {
    let prefix = &limits.response_topic;
    let has_form = !prefix.is_empty() && !client_id.contains(['+', '#', '/']);
    has_form.then(|| format!("{prefix}/{client_id}/"))
}

fn connack(
    connect: &Connect,
    terms: Terms,
    assigned_client_id: Option<String>,
    session_present: bool,
    limits: &Limits,
) -> ConnAck {
    let expiry_s = terms.session_expiry_s;
    let keep_alive_s = terms.keep_alive_s;
    ConnAck {
        session_present,
        session_expiry_s: (expiry_s != connect.properties.session_expiry_s).then_some(expiry_s),
        receive_max: Some(limits.receive_max),
        packet_bytes_max: Some(limits.packet_bytes_max),
        assigned_client_id,
        topic_alias_max: limits.topic_alias_max,
        server_keep_alive_s: (keep_alive_s != connect.keep_alive_s).then_some(keep_alive_s),
        ..ConnAck::default()
    }
}

/// A user name may begin with its namespace: `vhost:user`.
pub(super) fn named(name: &str) -> (String, String) {
    let (namespace, user) = name.split_once(':').unwrap_or(("", name));
    let namespace = if namespace.is_empty() { "/" } else { namespace };
    (namespace.to_owned(), user.to_owned())
}

/// What the client shows: a proof goes before a name, and for a client that gives no name its
/// certificate does, and needs no password.
fn credentials(connect: &Connect, caller: &Caller) -> Credentials {
    let peer = caller.line.peer;
    if let Some(proof) = &caller.proof {
        return proving::credentials(proof, caller);
    }
    let password = connect.password.as_ref().map(|bytes| bytes.to_vec());
    // An empty name without a password says no more than none; some libraries send it.
    let name = connect.username.as_ref();
    let Some(name) = name.filter(|name| !name.is_empty() || password.is_some()) else {
        if let Some(name) = &caller.certified {
            let (namespace, user) = named(name);
            return Credentials { namespace, secret: Secret::Certificate { user }, peer };
        }
        let secret = match password {
            None => Secret::Anonymous,
            // MQTT 5 allows a password alone.
            Some(password) => Secret::Password { user: String::new(), password },
        };
        return Credentials { namespace: "/".to_owned(), secret, peer };
    };
    let (namespace, user) = named(name.as_str());
    let secret = Secret::Password { user, password: password.unwrap_or_default() };
    Credentials { namespace, secret, peer }
}

fn session_expiry_s(connect: &Connect, limits: &Limits) -> u32 {
    let wanted = match connect.version {
        Version::V5 => connect.properties.session_expiry_s,
        Version::V31 | Version::V311 if connect.clean => 0,
        Version::V31 | Version::V311 => limits.v3_session_expiry_s,
    };
    wanted.min(limits.session_expiry_max_s)
}

fn in_flight_max(connect: &Connect, limits: &Limits) -> u16 {
    match connect.version {
        Version::V5 => connect.properties.receive_max.min(limits.in_flight_max),
        Version::V31 | Version::V311 => limits.v3_in_flight_max,
    }
    .max(1)
}

fn keep_alive_s(wanted: u16, limits: &Limits) -> u16 {
    match limits.keep_alive_max_s {
        0 => wanted,
        max if wanted == 0 => max,
        max => wanted.min(max),
    }
}

/// Which named queues a session consumes: kept with it as subscriptions that bring nothing, because
/// a queue's consumer lasts only as long as its connection.
pub(super) fn queue_marks(found: &SessionOpened) -> Vec<(String, Options)> {
    let marks = found.subscriptions.iter().filter_map(|subscription| {
        let options = Options::unpack(subscription.subscribe.options);
        let name = super::subscribing::marked_queue(&subscription.subscribe.filter)?;
        options.queue.then_some((name, Options { mark: false, ..options }))
    });
    marks.collect()
}

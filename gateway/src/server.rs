//! A running server: everything is started in order, and stopped in the reverse order.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use mainstem_broker::{Broker, OpenError, Refusal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    Config, Protocol,
    access::{
        Access,
        operator::{self, Entrance},
        registry::Registry,
        tokens::upkeep,
    },
    http::Node,
    listeners::{self, BindError},
    metrics,
    protocols::{self, Host},
    tls::{self, Certificates, TlsError},
};

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot write {path}: {error}", path = .0.display(), error = .1)]
    Operator(PathBuf, io::Error),
    #[error("cannot read who may log in: {0}")]
    Store(Refusal),
    #[error("cannot tell where {label} listens: {error}", label = .0.label(), error = .1)]
    Address(Protocol, io::Error),
}

impl StartError {
    /// The exit status, by the words of `sysexits.h`.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Bind(BindError::NotAllowed(..)) => 77,
            Self::Bind(_) | Self::Address(..) => 69,
            Self::Open(OpenError::Locked(_)) => 75,
            Self::Open(OpenError::Io(_, error)) if is_denied(error) => 77,
            Self::Open(OpenError::Io(..)) | Self::Operator(..) | Self::Tls(TlsError::Write(..)) => {
                73
            }
            Self::Open(OpenError::Bounds { .. } | OpenError::LogBounds { .. }) | Self::Tls(_) => 78,
            Self::Open(_) | Self::Store(_) => 74,
        }
    }
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// A server that serves until it is stopped.
pub struct Server {
    addresses: Vec<(Protocol, SocketAddr)>,
    broker: Broker,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
    drain_max: Duration,
    /// The file that tells this machine's operator how to get in.
    entrance: PathBuf,
    certificates: Certificates,
}

impl Server {
    /// Binds every listener, opens the store, and serves.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        metrics::start();
        let bound = listeners::bind_all(&config)?;
        let mut addresses = Vec::new();
        for (protocol, listener) in &bound {
            let address =
                listener.local_addr().map_err(|error| StartError::Address(*protocol, error))?;
            addresses.push((*protocol, address));
        }
        let access = Arc::new(Access::new(&config));
        upkeep::refresh(access.clone()).await;
        let broker = open(&config, access.clone()).await?;
        let opened = Registry::open(access.clone(), broker.clone()).await;
        let registry = opened.map_err(StartError::Store)?;
        let tls = tls::certificates(&config)?;
        // The store is open, so that the directory is this process's.
        let entrance = operator::file(&config.data_dir);
        Entrance::new(access.operator(), &addresses)
            .write(&entrance)
            .map_err(|error| StartError::Operator(entrance.clone(), error))?;
        let (drain_max, config) = (Duration::from_millis(config.drain_ms_max), Arc::new(config));
        let shutdown = CancellationToken::new();
        let limits = Arc::new(config.mqtt.clone());
        let mqtt = mainstem_mqtt::Service::new(broker.clone(), limits, shutdown.clone());
        let namespaces: Vec<String> = registry.directory().namespaces.keys().cloned().collect();
        mqtt.see_to_wills(&namespaces).await;
        let node = Arc::new(Node::new(broker.now()));
        let certificates = tls.clone();
        let host = Host {
            broker: broker.clone(),
            registry,
            mqtt,
            config,
            addresses: addresses.clone().into(),
            tls,
            node,
            shutdown: shutdown.clone(),
        };
        let mut tasks = JoinSet::new();
        for (protocol, listener) in bound {
            tasks.spawn(host.clone().serve(protocol, listener));
        }
        tasks.spawn(metrics::keep_up(shutdown.clone()));
        tasks.spawn(certificates.clone().watch(broker.clone(), shutdown.clone()));
        tasks.spawn(host.node.watch(broker.clone(), shutdown.clone()));
        tasks.spawn(upkeep::keep_up(access, broker.clone(), shutdown.clone()));
        Ok(Self { addresses, broker, shutdown, tasks, drain_max, entrance, certificates })
    }

    /// Where each protocol listens.
    #[must_use]
    pub fn addresses(&self) -> &[(Protocol, SocketAddr)] {
        &self.addresses
    }

    /// What it shows to whoever comes with TLS.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// The store behind it.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Waits until somebody asks over HTTP that it stops. Cancel-safe.
    pub async fn asked_to_stop(&self) {
        self.shutdown.cancelled().await;
    }

    /// Says goodbye to every peer, waits a bounded time for them to go, and closes the store.
    /// Tells whether all of them went in time.
    pub async fn stop(mut self) -> bool {
        self.shutdown.cancel();
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        let in_time = tokio::time::timeout(self.drain_max, drained).await.is_ok();
        self.tasks.abort_all();
        // What it holds opens nothing any more; one that is left says that nobody answers.
        let _left = std::fs::remove_file(&self.entrance);
        self.broker.stop().await;
        in_time
    }
}

/// Opens the store, which reads the log. That may take long, and so is done beside the runtime's own
/// threads.
async fn open(config: &Config, access: Arc<Access>) -> Result<Broker, OpenError> {
    let store = config.broker();
    let open = move || Broker::open(store, access, protocols::views());
    match tokio::task::spawn_blocking(open).await {
        Ok(opened) => opened,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

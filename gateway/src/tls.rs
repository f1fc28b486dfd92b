//! The certificates: of the RocketMQ port, where TLS and plain HTTP/2 share one socket, of the HTTPS
//! port, and of the AMQPS and MQTTS ports, which may ask clients for theirs.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use mainstem_broker::Broker;
use mainstem_schemas::certificate;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    config::{Tls, TlsListener},
};

/// Between two looks at how long the certificate is good.
const LOOK: Duration = Duration::from_secs(60);
/// Days before its end at which there is a warning, the nearest first.
const WARNED_DAYS: [u64; 3] = [1, 7, 30];

/// Why there is no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {reason}", path = .0.display(), reason = .1)]
    Read(PathBuf, String),
    #[error("cannot write {path}: {error}", path = .0.display(), error = .1)]
    Write(PathBuf, io::Error),
    #[error("cannot make a certificate: {0}")]
    Make(rcgen::Error),
    #[error("cannot serve TLS: {0}")]
    Versions(rustls::Error),
    #[error("the certificate {path} cannot be used: {error}", path = .0.display(), error = .1)]
    Unusable(PathBuf, rustls::Error),
}

/// The certificate that is shown, until another one takes its place. Connections that are open keep theirs.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    fn now(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

/// The server sides of TLS.
#[derive(Clone)]
pub struct Certificates {
    pub rocketmq: Arc<ServerConfig>,
    pub amqps: Arc<ServerConfig>,
    pub mqtts: Arc<ServerConfig>,
    pub https: Arc<ServerConfig>,
    shown: Arc<Shown>,
}

impl Certificates {
    /// Reads the certificate again, which is shown to whoever connects from then on. Errors: it cannot be used, and
    /// the one before stays.
    pub fn reload(&self, config: &Config) -> Result<(), TlsError> {
        let new = Arc::new(read(config)?);
        *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// When the certificate ends, in seconds since 1970.
    fn not_after(&self) -> Option<u64> {
        certificate::not_after(self.shown.now().end_entity_cert().ok()?)
    }

    /// Tells when the certificate ends, and warns as its end comes near, until the shutdown.
    pub(crate) async fn watch(self, broker: Broker, shutdown: CancellationToken) {
        metrics::describe_gauge!(
            "mainstem_tls_certificate_not_after_seconds",
            "when the certificate that is shown ends, in seconds since 1970"
        );
        let mut ticks = tokio::time::interval(LOOK);
        let mut told = None;
        // Cancel-safe: a tick that is lost is made up by the next one.
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            let Some(end) = self.not_after() else { continue };
            #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
            metrics::gauge!("mainstem_tls_certificate_not_after_seconds").set(end as f64);
            let left_days = end.saturating_sub(broker.now().0 / 1000) / 86_400;
            let near = warned_at(left_days);
            if near.is_some() && near != told {
                tracing::warn!(event = "certificate_ends", left_days, "the certificate ends soon");
            }
            told = near;
        }
    }
}

/// The bound that so many days are within.
fn warned_at(left_days: u64) -> Option<u64> {
    WARNED_DAYS.into_iter().find(|days| left_days < *days)
}

/// The server sides of TLS with the configured certificate, or with one made here.
pub fn certificates(config: &Config) -> Result<Certificates, TlsError> {
    let shown = Arc::new(Shown(RwLock::new(Arc::new(read(config)?))));
    let server = |listener| Ok(Arc::new(serving(shown.clone(), clients(listener)?)?));
    let amqps = server(&config.listeners.amqps)?;
    let mqtts = server(&config.listeners.mqtts)?;
    let mut rocketmq = serving(shown.clone(), WebPkiClientVerifier::no_client_auth())?;
    rocketmq.alpn_protocols = vec![b"h2".to_vec()];
    let mut https = serving(shown.clone(), WebPkiClientVerifier::no_client_auth())?;
    https.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (rocketmq, https) = (Arc::new(rocketmq), Arc::new(https));
    Ok(Certificates { rocketmq, amqps, mqtts, https, shown })
}

/// The configured certificate, or one made here, with its key.
fn read(config: &Config) -> Result<CertifiedKey, TlsError> {
    let Tls { certificate, key } = &config.tls;
    if certificate.as_os_str().is_empty() {
        let (certificate, key) = own_certificate(&config.data_dir)?;
        return load(&certificate, &key);
    }
    load(certificate, key)
}

/// Which clients a listener wants to know.
fn clients(listener: &TlsListener) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let TlsListener { client_ca, client_certificate_required: required, .. } = listener;
    if client_ca.as_os_str().is_empty() {
        return Ok(WebPkiClientVerifier::no_client_auth());
    }
    verifier(client_ca, *required)
}

/// Verifies clients' certificates by these authorities.
fn verifier(client_ca: &Path, required: bool) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let unusable = |error| TlsError::Unusable(client_ca.to_owned(), error);
    let mut authorities = RootCertStore::empty();
    for authority in read_chain(client_ca)? {
        authorities.add(authority).map_err(unusable)?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider());
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| unusable(rustls::Error::General(error.to_string())))
}

fn serving(
    shown: Arc<Shown>,
    clients: Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, TlsError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)?;
    Ok(config.with_client_cert_verifier(clients).with_cert_resolver(shown))
}

/// A certificate and its key, which belong together.
fn load(certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = read_chain(certificate)?;
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| TlsError::Read(key.to_owned(), error.to_string()))?;
    CertifiedKey::from_der(chain, secret, &provider())
        .map_err(|error| TlsError::Unusable(certificate.to_owned(), error))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificates of a PEM file; one at least.
fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: String| TlsError::Read(path.to_owned(), reason);
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong("there is no certificate in it".to_owned()));
    }
    Ok(chain)
}

/// When a file's first certificate ends, in seconds since 1970.
pub fn not_after(path: &Path) -> Result<u64, TlsError> {
    let wrong = |reason: String| TlsError::Read(path.to_owned(), reason);
    let chain = read_chain(path)?;
    let first = chain.first().ok_or_else(|| wrong("there is no certificate in it".to_owned()))?;
    certificate::not_after(first)
        .ok_or_else(|| wrong("it has no end that is understood".to_owned()))
}

/// Where a certificate signed by itself is kept, and its key.
pub(crate) fn own_files(data_dir: &Path) -> (PathBuf, PathBuf) {
    let folder = data_dir.join("tls");
    (folder.join("cert.pem"), folder.join("key.pem"))
}

/// The files of a certificate signed by itself; made once and kept, so that a client that was
/// told to trust it trusts it after a restart.
fn own_certificate(data_dir: &Path) -> Result<(PathBuf, PathBuf), TlsError> {
    let (certificate, key) = own_files(data_dir);
    if certificate.exists() && key.exists() {
        return Ok((certificate, key));
    }
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names).map_err(TlsError::Make)?;
    let folder = data_dir.join("tls");
    fs::create_dir_all(&folder).map_err(|error| TlsError::Write(folder.clone(), error))?;
    write(&key, &made.signing_key.serialize_pem(), 0o600)?;
    write(&certificate, &made.cert.pem(), 0o644)?;
    Ok((certificate, key))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let wrong = |error| TlsError::Write(path.to_owned(), error);
    let mut options = fs::OpenOptions::new();
    let mut file =
        options.create(true).write(true).truncate(true).mode(mode).open(path).map_err(wrong)?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = own_certificate(folder.path()).unwrap();
        let first = fs::read(&certificate).unwrap();
        assert!(load(&certificate, &key).is_ok());
        let again = own_certificate(folder.path()).unwrap();
        assert_eq!(fs::read(again.0).unwrap(), first);
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(key).unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_end_of_a_certificate_is_warned_of_three_times() {
        let days = [31, 30, 29, 8, 7, 6, 1, 0];
        let expected = [None, None, Some(30), Some(30), Some(30), Some(7), Some(7), Some(1)];
        assert_eq!(days.map(warned_at), expected);
    }

    #[test]
    fn a_key_that_is_not_the_certificates_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, _) = own_certificate(folder.path()).unwrap();
        let other = tempfile::tempdir().unwrap();
        let (_, key) = own_certificate(other.path()).unwrap();
        assert!(matches!(load(&certificate, &key), Err(TlsError::Unusable(..))));
    }

    #[test]
    fn a_file_that_is_no_certificate_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cert.pem");
        fs::write(&path, "no pem").unwrap();
        let error = load(&path, &path).unwrap_err().to_string();
        assert!(error.contains("cert.pem"), "{error}");
    }
}

//! The certificate of the RocketMQ port, where TLS and plain HTTP/2 share one socket.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{Config, config::Tls};

/// Why there is no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {reason}", path = .0.display(), reason = .1)]
    Read(PathBuf, String),
    #[error("cannot write {path}: {error}", path = .0.display(), error = .1)]
    Write(PathBuf, io::Error),
    #[error("cannot make a certificate: {0}")]
    Make(rcgen::Error),
    #[error("the certificate {path} cannot be used: {error}", path = .0.display(), error = .1)]
    Unusable(PathBuf, rustls::Error),
}

/// The server side of TLS with the configured certificate, or with one made here.
pub fn server_config(config: &Config) -> Result<Arc<ServerConfig>, TlsError> {
    let Tls { certificate, key } = &config.tls;
    let (certificate, key) = if certificate.as_os_str().is_empty() {
        own_certificate(&config.data_dir.join("tls"))?
    } else {
        (certificate.clone(), key.clone())
    };
    load(&certificate, &key)
}

fn load(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |error: rustls::pki_types::pem::Error| TlsError::Read(path, error.to_string())
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .map_err(wrong(certificate))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(wrong(certificate))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(wrong(key))?;
    let unusable = |error| TlsError::Unusable(certificate.to_owned(), error);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(unusable)?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(tls))
}

/// The files of a certificate signed by itself; made once and kept, so that a client that was
/// told to trust it trusts it after a restart.
fn own_certificate(folder: &Path) -> Result<(PathBuf, PathBuf), TlsError> {
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    if certificate.exists() && key.exists() {
        return Ok((certificate, key));
    }
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names).map_err(TlsError::Make)?;
    fs::create_dir_all(folder).map_err(|error| TlsError::Write(folder.to_owned(), error))?;
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
        assert_eq!(load(&certificate, &key).unwrap().alpn_protocols, [b"h2".to_vec()]);
        let again = own_certificate(folder.path()).unwrap();
        assert_eq!(fs::read(again.0).unwrap(), first);
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(key).unwrap());
        assert_eq!(mode & 0o777, 0o600);
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

//! Authorities that sign certificates for a test, and clients that show them.

use std::{fs, net::Ipv4Addr, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

use crate::{server::Server, wait::Deadline};

/// A client's certificate and key.
pub type Shown = (CertificateDer<'static>, PrivateKeyDer<'static>);

/// Somebody who signs certificates.
pub struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    /// Makes one, whose certificate stands in a file.
    #[must_use]
    pub fn new(name: &str, file: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        fs::write(file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self(Issuer::new(params, key))
    }

    /// A certificate for this common name, and its key.
    #[must_use]
    pub fn sign(&self, name: &str) -> Shown {
        let (certificate, key) = self.make(name);
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    /// The same in one PEM file each.
    pub fn sign_into(&self, name: &str, certificate: &Path, key: &Path) {
        let (made, secret) = self.make(name);
        fs::write(certificate, made.pem()).unwrap();
        fs::write(key, secret.serialize_pem()).unwrap();
    }

    fn make(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }
}

/// A port with TLS, by the first word of the line that says it at the start.
#[must_use]
pub fn port(server: &Server, name: &str) -> u16 {
    Deadline::seconds(20).until("the server to listen with TLS", || {
        let lines = server.log();
        let line = lines.iter().find(|line| line.split(' ').next() == Some(name))?;
        line.rsplit(':').next()?.trim().parse().ok()
    })
}

/// A client of that port that trusts the server's own certificate.
pub async fn connect(server: &Server, name: &str, shown: Option<Shown>) -> TlsStream<TcpStream> {
    let mut trusted = RootCertStore::empty();
    let own = server.data_dir().join("tls/cert.pem");
    trusted.add(CertificateDer::from_pem_file(own).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(trusted);
    let config = match shown {
        Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => config.with_no_client_auth(),
    };
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port(server, name))).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
}

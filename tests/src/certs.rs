//! An authority that signs certificates, as files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};

/// An authority with a folder of its own.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one; its certificate is in `ca.pem` of the folder.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn new(folder: &Path) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Two authorities of one name would be taken for one.
        let name = folder.display().to_string();
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join("ca.pem"), issuer.pem())?;
        let folder = folder.to_owned();
        Ok(Self { folder, issuer })
    }

    /// The file of its certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Writes a certificate for a host's name or address, and its key.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn sign(&self, host: &str, cert: &Path, key: &Path) -> Result<()> {
        let params = CertificateParams::new(vec![host.to_owned()])?;
        self.sign_as(&params, cert, key)
    }

    /// [`Authority::sign`], of a certificate that ended long ago.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn sign_ended(&self, host: &str, cert: &Path, key: &Path) -> Result<()> {
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.sign_as(&params, cert, key)
    }

    fn sign_as(&self, params: &CertificateParams, cert: &Path, key: &Path) -> Result<()> {
        let own = KeyPair::generate()?;
        fs::write(cert, params.signed_by(&own, &self.issuer)?.pem())?;
        Ok(fs::write(key, own.serialize_pem())?)
    }

    /// [`Authority::sign`] into files of the folder, as the two lines of a `[tls]` table.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn identity(&self, name: &str, host: &str) -> Result<String> {
        let cert = self.folder.join(format!("{name}.pem"));
        let key = self.folder.join(format!("{name}.key"));
        self.sign(host, &cert, &key)?;
        Ok(format!("cert = {cert:?}, key = {key:?}"))
    }
}

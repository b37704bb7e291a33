//! Certificates and keys from PEM files, and whether those have changed.
//!
//! Not for: what is made of them (see [`super`]).

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::{Identity, TlsError};

/// What tells one state of the files from another: device, inode, size, nanoseconds of the last change.
/// A file that is not there has none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamps([Option<(u64, u64, u64, i128)>; 3]);

impl Stamps {
    pub(super) fn of(ca: Option<&Path>, identity: Option<&Identity>) -> Self {
        let stamp = |path: &Path| {
            // Follows links: certificates are often renewed by swapping one.
            let meta = fs::metadata(path).ok()?;
            let changed = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
            Some((meta.dev(), meta.ino(), meta.size(), changed))
        };
        Self([
            ca.and_then(stamp),
            identity.and_then(|identity| stamp(&identity.cert)),
            identity.and_then(|identity| stamp(&identity.key)),
        ])
    }
}

/// The authorities of a file.
pub(super) fn authorities(path: &Path, key: &'static str) -> Result<RootCertStore, TlsError> {
    let wrong = |why: String| TlsError::File {
        path: path.to_owned(),
        key,
        why,
    };
    let mut roots = RootCertStore::empty();
    for cert in certificates(path, key)? {
        roots.add(cert).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(roots)
}

/// A certificate with its chain, and its key.
pub(super) fn pair(
    identity: &Identity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let certs = certificates(&identity.cert, "tls.cert")?;
    let wrong = |why| TlsError::File {
        path: identity.key.clone(),
        key: "tls.key",
        why,
    };
    let text = read(&identity.key, "tls.key")?;
    // The content is in no error.
    let key = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_content| wrong("expected is a private key in PEM, not encrypted".to_owned()))?;
    Ok((certs, key))
}

fn certificates(path: &Path, key: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |why: String| TlsError::File {
        path: path.to_owned(),
        key,
        why,
    };
    let text = read(path, key)?;
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certs = certs.map_err(|error| wrong(format!("it is no PEM: {error}")))?;
    match certs.is_empty() {
        true => Err(wrong("expected is a certificate in PEM".to_owned())),
        false => Ok(certs),
    }
}

fn read(path: &Path, key: &'static str) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::File {
        path: PathBuf::from(path),
        key,
        why: error.to_string(),
    })
}

//! Whose certificates are trusted.

use std::path::{Path, PathBuf};

use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};
use ureq::tls::{Certificate, RootCerts};

use super::error::HubError;

/// The trusted certificates: those that a variable names, or else the system's. Mozilla's list, built
/// in, stands in for a system without any.
///
/// - `named`: the variable and its path, a file or a folder
pub(super) fn root_certificates(
    named: Option<&(&'static str, PathBuf)>,
) -> Result<RootCerts, HubError> {
    let Some((variable, path)) = named else {
        let found = load_native_certs();
        return Ok(if found.certs.is_empty() { RootCerts::WebPki } else { trusted(&found) });
    };
    let found = load(path);
    if found.certs.is_empty() {
        let problem = found.errors.first().map(ToString::to_string);
        return Err(HubError::Certificates {
            variable,
            path: path.clone(),
            problem: problem.unwrap_or_else(|| "no certificate in PEM form".to_owned()),
        });
    }
    Ok(trusted(&found))
}

fn load(path: &Path) -> CertificateResult {
    if path.is_dir() {
        load_certs_from_paths(None, Some(path))
    } else {
        load_certs_from_paths(Some(path), None)
    }
}

fn trusted(found: &CertificateResult) -> RootCerts {
    let owned =
        |certificate: &_| Certificate::from_der(AsRef::<[u8]>::as_ref(certificate)).to_owned();
    RootCerts::from(found.certs.iter().map(owned).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/hub/authority.pem")
    }

    fn count(path: &Path) -> usize {
        match root_certificates(Some(&("SSL_CERT_FILE", path.to_owned()))).unwrap() {
            RootCerts::Specific(certificates) => certificates.len(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_named_file_alone_is_trusted() {
        assert_eq!(count(&authority()), 1);
    }

    #[test]
    fn a_folder_of_certificates_is_trusted() {
        let folder = tempfile::tempdir().unwrap();
        // The name that `openssl rehash` gives, a hash and a number.
        std::fs::copy(authority(), folder.path().join("0a1b2c3d.0")).unwrap();
        assert_eq!(count(folder.path()), 1);
    }

    #[test]
    fn a_name_without_certificates_is_an_error_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        for path in [folder.path().join("missing.pem"), empty, folder.path().to_owned()] {
            let error = root_certificates(Some(&("CURL_CA_BUNDLE", path.clone()))).unwrap_err();
            let start = format!("CURL_CA_BUNDLE names `{}`, which has no usable", path.display());
            assert!(error.to_string().starts_with(&start), "{error}");
            assert!(error.hint().unwrap().contains("unset it"), "{error}");
        }
    }

    #[test]
    fn without_a_name_there_are_certificates() {
        root_certificates(None).unwrap();
    }
}

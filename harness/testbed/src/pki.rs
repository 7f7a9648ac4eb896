//! The cluster's own certificate authority. Keys are P-256: made in well under a millisecond.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// A certificate with its key, both as PEM.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

/// A key without a certificate, both halves as PEM.
#[derive(Clone, Debug)]
pub(crate) struct KeyPems {
    pub(crate) private_pem: String,
    pub(crate) public_pem: String,
}

/// A new key, to sign service account tokens with.
pub(crate) fn key_pair() -> Result<KeyPems, rcgen::Error> {
    let key = KeyPair::generate()?;
    Ok(KeyPems { private_pem: key.serialize_pem(), public_pem: key.public_key_pem() })
}

/// The authority that signs every certificate of one testbed.
pub(crate) struct Pki {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub(crate) fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// The authority's certificate, for kubeconfigs and `kube-root-ca.crt`.
    pub(crate) fn ca_pem(&self) -> String {
        self.issuer.pem()
    }

    /// A serving certificate for these names and addresses.
    pub(crate) fn server(&self, names: &[&str], addresses: &[IpAddr]) -> Result<Credentials, rcgen::Error> {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.subject_alt_names.extend(addresses.iter().map(|ip| SanType::IpAddress(*ip)));
        params.distinguished_name.push(DnType::CommonName, *names.first().unwrap_or(&"stickler"));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// A client certificate: the common name is the user, organizations are its groups
    /// ([Authenticating, "X.509 client certificates"](https://kubernetes.io/docs/reference/access-authn-authz/authentication/#x509-client-certificates)).
    pub(crate) fn client(&self, user: &str, groups: &[&str]) -> Result<Credentials, rcgen::Error> {
        let mut params = CertificateParams::default();
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.distinguished_name.push(DnType::CommonName, user);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Result<Credentials, rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Credentials { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

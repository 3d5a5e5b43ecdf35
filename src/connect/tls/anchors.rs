use std::sync::Arc;

use rustls_platform_verifier::Verifier;
use tokio::sync::OnceCell;
use tokio_rustls::rustls::client::{ResolvesClientCert, Resumption};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::connect::tls::error;
use crate::error::BoxError;
use crate::tls_config::for_http_1;

/// Whom to trust.
#[derive(Clone)]
pub(super) enum Anchors {
    /// Those whom the platform trusts.
    Platform,
    /// Those of these certificates.
    Roots(Arc<RootCertStore>),
    /// Whom this configuration trusts.
    Given(Arc<ClientConfig>),
}

/// What a configuration is made of.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) anchors: Anchors,
    pub(super) client: Option<Arc<dyn ResolvesClientCert>>,
    /// For how many hosts; `None` where a given configuration says so itself.
    pub(super) sessions: Option<usize>,
}

/// Up to so many tickets are kept for one host by rustls, which counts them and not the hosts.
const TICKETS_OF_A_HOST: usize = 8;

/// rustls sets room aside for as many hosts as it is told of.
const MOST_HOSTS: usize = 1 << 16;

impl Settings {
    fn config(self) -> Result<ClientConfig, rustls::Error> {
        let mut config = for_http_1(match self.anchors {
            Anchors::Given(config) => Arc::unwrap_or_clone(config),
            Anchors::Roots(roots) => begin()?.with_root_certificates(roots).with_no_client_auth(),
            Anchors::Platform => begin()?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Verifier::new(provider())?))
                .with_no_client_auth(),
        });
        if let Some(client) = self.client {
            config.client_auth_cert_resolver = client;
        }
        if let Some(hosts) = self.sessions {
            config.resumption = match hosts.min(MOST_HOSTS) {
                0 => Resumption::disabled(),
                hosts => Resumption::in_memory_sessions(hosts * TICKETS_OF_A_HOST),
            };
        }
        Ok(config)
    }
}

type Begun = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;

fn begin() -> Result<Begun, rustls::Error> {
    ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()
}

/// Named, and not looked up: whatever the rest of the program has installed, or has not, is its own.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The configuration of a connector, made when it is first asked for: a machine that has no certificates to trust is
/// good enough for `http`.
pub(super) struct Configuration {
    settings: Settings,
    made: OnceCell<Arc<ClientConfig>>,
}

impl Configuration {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            made: OnceCell::new(),
        }
    }

    /// A failure is not kept: certificates can be installed while the program runs.
    pub(super) async fn get(&self) -> Result<Arc<ClientConfig>, BoxError> {
        let make = || async {
            let settings = self.settings.clone();
            // The platform's certificates are in files, hundreds of them.
            let made = match self.settings.anchors {
                Anchors::Platform => tokio::task::spawn_blocking(|| settings.config())
                    .await
                    .map_err(error::unread_anchors)?,
                Anchors::Roots(_) | Anchors::Given(_) => settings.config(),
            };
            Ok(Arc::new(made.map_err(error::no_anchors)?))
        };
        self.made.get_or_try_init(make).await.cloned()
    }
}

use std::sync::Arc;

use rustls_platform_verifier::Verifier as PlatformVerifier;
use tokio::sync::OnceCell;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::connect::tls::error;
use crate::connect::tls::trust::{Anybody, Verifier};
use crate::error::BoxError;
use crate::error::connect::ConnectError;
use crate::target::protocol::Protocol;
use crate::target::tls_config::Offering;

/// What a configuration is made from. Certificates are checked against `roots`, or else as `given` does, or else
/// against the platform's roots.
#[derive(Clone, Default)]
pub(super) struct Settings {
    pub(super) given: Option<Arc<ClientConfig>>,
    pub(super) roots: Option<Arc<RootCertStore>>,
    /// Whether the platform's roots are trusted in addition to `roots`.
    pub(super) platform_too: bool,
    /// Certificates are not checked.
    pub(super) anybody: bool,
    pub(super) client: Option<Arc<dyn ResolvesClientCert>>,
    /// For how many hosts; `None` leaves it to a given configuration.
    pub(super) sessions: Option<usize>,
    /// What is offered if the target does not set it.
    pub(super) protocol: Protocol,
}

/// How many tickets rustls keeps for one host; it limits the number of tickets, not of hosts.
const TICKETS_OF_A_HOST: usize = 8;

/// rustls allocates memory for this many hosts at once.
const MOST_HOSTS: usize = 1 << 16;

impl Settings {
    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        match &self.given {
            Some(config) => config.crypto_provider().clone(),
            None => provider(),
        }
    }

    fn config(self) -> Result<ClientConfig, ConnectError> {
        let provider = self.provider();
        let verifier = self.verifier(&provider)?;
        let mut config = match (self.given, verifier) {
            (Some(config), None) => Arc::unwrap_or_clone(config),
            (Some(config), Some(verifier)) => {
                let mut config = Arc::unwrap_or_clone(config);
                config.dangerous().set_certificate_verifier(verifier);
                config
            }
            (None, verifier) => ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(error::no_configuration)?
                .dangerous()
                .with_custom_certificate_verifier(verifier.expect("where nothing is given"))
                .with_no_client_auth(),
        };
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

    /// `None` if the given configuration verifies.
    fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ServerCertVerifier>>, ConnectError> {
        let platform = || -> Result<Arc<dyn ServerCertVerifier>, ConnectError> {
            let verifier = PlatformVerifier::new(provider.clone()).map_err(error::no_roots)?;
            Ok(Arc::new(verifier))
        };
        Ok(Some(match &self.roots {
            _ if self.anybody => {
                let algorithms = provider.signature_verification_algorithms;
                Arc::new(Anybody(algorithms.supported_schemes()))
            }
            Some(roots) => {
                let inner =
                    WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone());
                Arc::new(Verifier {
                    inner: inner.build().map_err(error::no_configuration)?,
                    given: roots.clone(),
                    next: match self.platform_too {
                        true => Some(platform()?),
                        false => None,
                    },
                })
            }
            None if self.given.is_some() => return Ok(None),
            None => Arc::new(Verifier {
                inner: platform()?,
                given: Arc::new(RootCertStore::empty()),
                next: None,
            }),
        }))
    }

    /// Whether the platform's roots are needed: they are read from hundreds of files.
    fn reads_files(&self) -> bool {
        let asks_platform = match self.roots {
            Some(_) => self.platform_too,
            None => self.given.is_none(),
        };
        asks_platform && !self.anybody
    }
}

/// Not the process-wide provider, which belongs to the program.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The configuration of a connector, made on first use: a machine without a trust store can still use `http`.
pub(super) struct Configuration {
    settings: Settings,
    made: OnceCell<Offering>,
}

impl Configuration {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            made: OnceCell::new(),
        }
    }

    /// What is offered if the target does not set it.
    pub(super) fn protocol(&self) -> Protocol {
        self.settings.protocol
    }

    /// A failure is not stored: certificates can be installed while the program runs.
    pub(super) async fn get(&self, protocol: Protocol) -> Result<Arc<ClientConfig>, BoxError> {
        let make = || async {
            let settings = self.settings.clone();
            let made = match settings.reads_files() {
                true => tokio::task::spawn_blocking(|| settings.config())
                    .await
                    .map_err(error::unread_roots)?,
                false => settings.config(),
            };
            Ok::<_, BoxError>(Offering::new(made?))
        };
        let made = self.made.get_or_try_init(make).await?;
        Ok(made.of(protocol))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reading them blocks a thread, and a task that does is spawned only for that.
    #[test]
    fn only_the_roots_of_the_platform_are_read_from_files() {
        let roots = Some(Arc::new(RootCertStore::empty()));
        let given = Anybody(Vec::new());
        let given = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(given))
            .with_no_client_auth();
        let given = Some(Arc::new(given));
        let default = Settings::default;
        let with = |roots, given, platform_too| Settings {
            roots,
            given,
            platform_too,
            ..default()
        };
        for (settings, reads) in [
            (default(), true),
            (with(roots.clone(), None, false), false),
            (with(roots, None, true), true),
            (with(None, given, false), false),
            (
                Settings {
                    anybody: true,
                    ..default()
                },
                false,
            ),
        ] {
            assert_eq!(settings.reads_files(), reads);
        }
    }
}

//! Reads a response body to its end in one call.

use std::str;

use bytes::{Bytes, BytesMut};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;

use crate::error::{Error, Kind};
use crate::exchange::Body;

impl Body {
    /// Reads the body to its end. It may have at most `limit` bytes.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_keep_alive::Error> {
    /// # let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
    /// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    /// # let url = format!("http://{}/", listener.local_addr().unwrap());
    /// # tokio::spawn(async { axum::serve(listener, app).await });
    /// let agent = tower_keep_alive::KeepAlive::new();
    /// let response = agent.get(&url).await?;
    /// let bytes = response.into_body().bytes(1024 * 1024).await?;
    /// assert_eq!(bytes, "hello");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the connection fails before the end. If the body is longer than `limit`, the error is
    /// [`is_too_large`](Error::is_too_large); the rest is not read, and the connection is closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the body, which closes the connection if the end was not reached.
    pub async fn bytes(mut self, limit: usize) -> Result<Bytes, Error> {
        let too_large = |body: &Self| {
            Error::new(Kind::TooLarge(limit)).with_connection(body.connection().clone())
        };
        if HttpBody::size_hint(&self).lower() > limit as u64 {
            return Err(too_large(&self));
        }
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = self.frame().await {
            let Ok(data) = frame?.into_data() else {
                // Trailers.
                continue;
            };
            if data.len() > limit - first.len() - rest.len() {
                return Err(too_large(&self));
            }
            // Most bodies are one frame, which is not copied.
            if first.is_empty() {
                first = data;
            } else {
                rest.extend_from_slice(&data);
            }
        }
        if rest.is_empty() {
            return Ok(first);
        }
        let mut whole = BytesMut::with_capacity(first.len() + rest.len());
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&rest);
        Ok(whole.freeze())
    }

    /// Reads the body to its end as UTF-8 text. It may have at most `limit` bytes. A `charset` in `Content-Type` is
    /// ignored.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_keep_alive::Error> {
    /// # let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
    /// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    /// # let url = format!("http://{}/", listener.local_addr().unwrap());
    /// # tokio::spawn(async { axum::serve(listener, app).await });
    /// let agent = tower_keep_alive::KeepAlive::new();
    /// let text = agent.get(&url).await?.into_body().text(1024 * 1024).await?;
    /// assert_eq!(text, "hello");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`bytes`](Self::bytes). If the body is not UTF-8, the error is [`is_decode`](Error::is_decode).
    ///
    /// # Cancel safety
    ///
    /// As for [`bytes`](Self::bytes).
    pub async fn text(self, limit: usize) -> Result<String, Error> {
        let connection = self.connection().clone();
        let bytes = self.bytes(limit).await?;
        match str::from_utf8(&bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(Error::new(Kind::Decode("UTF-8"))
                .caused_by(error)
                .with_connection(connection)),
        }
    }

    /// Reads the body to its end as JSON. It may have at most `limit` bytes. `Content-Type` is ignored.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_keep_alive::Error> {
    /// # let app = axum::Router::new().route("/", axum::routing::get(|| async { "[1, 2]" }));
    /// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    /// # let url = format!("http://{}/", listener.local_addr().unwrap());
    /// # tokio::spawn(async { axum::serve(listener, app).await });
    /// let agent = tower_keep_alive::KeepAlive::new();
    /// let numbers: Vec<u8> = agent.get(&url).await?.into_body().json(1024 * 1024).await?;
    /// assert_eq!(numbers, [1, 2]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`bytes`](Self::bytes). If the body is not JSON, or not a `T`, the error is
    /// [`is_decode`](Error::is_decode).
    ///
    /// # Cancel safety
    ///
    /// As for [`bytes`](Self::bytes).
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub async fn json<T>(self, limit: usize) -> Result<T, Error>
    where
        T: serde::de::DeserializeOwned,
    {
        let connection = self.connection().clone();
        let bytes = self.bytes(limit).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(Kind::Decode("the JSON that was asked for"))
                .caused_by(error)
                .with_connection(connection)
        })
    }
}

//! Answers that are large are compressed for whoever asks for it
//! ([API concepts, "Response compression"](https://kubernetes.io/docs/reference/using-api/api-concepts/#response-compression)).
//! Requests are not: a compressed body is refused as no JSON, as upstream does.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

use super::request::header;
use super::status::{Result, Status};

/// Smaller answers are not worth the work.
pub(crate) const LEAST: usize = 128 << 10;

/// Does the client take gzip? Weights are not heeded, as upstream does.
pub(crate) fn is_asked_for(headers: &HeaderMap) -> bool {
    header(headers, &ACCEPT_ENCODING).split(',').any(|coding| coding.trim() == "gzip")
}

/// Compresses an answer; others are served meanwhile.
pub(crate) async fn gzip(answer: Bytes) -> Result<Bytes> {
    let compress = move || {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&answer)?;
        std::io::Result::Ok(Bytes::from(encoder.finish()?))
    };
    let compressed = tokio::task::spawn_blocking(compress).await.map_err(Status::internal)?;
    compressed.map_err(Status::internal)
}

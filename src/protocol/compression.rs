//! Body compression, by the names and media types of the `compression` header.

use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status};
use thiserror::Error;

/// The largest window a zstd frame may ask for beyond the limit: every encoder may assume 8 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Why a body cannot be compressed or decompressed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CompressionError {
    /// Celery knows it, the engine does not: Python has to do it.
    #[error("{0} compression is not supported by the engine")]
    Unsupported(&'static str),
    /// Nobody knows it.
    #[error("unknown compression")]
    Unknown,
    /// It would be larger than allowed.
    #[error("decompressed body is larger than {limit} bytes")]
    TooLarge {
        /// The bytes allowed.
        limit: usize,
    },
    /// The data is damaged or cut short.
    #[error("malformed {0} data")]
    Corrupt(&'static str),
}

enum Method {
    Zlib,
    Bzip2,
    Zstd,
}

impl Method {
    /// "gzip" is the zlib stream format: the name is older than the choice.
    fn parse(name: &str) -> Result<Self, CompressionError> {
        match name {
            "gzip" | "zlib" | "application/x-gzip" => Ok(Self::Zlib),
            "bzip2" | "bzip" | "application/x-bz2" => Ok(Self::Bzip2),
            "zstd" | "zstandard" | "application/zstd" => Ok(Self::Zstd),
            "lzma" | "xz" | "application/x-lzma" => Err(CompressionError::Unsupported("lzma")),
            "brotli" | "application/x-brotli" => Err(CompressionError::Unsupported("brotli")),
            _ => Err(CompressionError::Unknown),
        }
    }
}

/// Compresses a body; `content_type` is a name (`gzip`) or a media type (`application/x-gzip`).
pub fn compress(data: &[u8], content_type: &str) -> Result<Vec<u8>, CompressionError> {
    let mut out = Vec::new();
    let written = match Method::parse(content_type)? {
        Method::Zlib => {
            flate2::read::ZlibEncoder::new(data, flate2::Compression::default()).read_to_end(&mut out)
        }
        Method::Bzip2 => bzip2::read::BzEncoder::new(data, bzip2::Compression::best()).read_to_end(&mut out),
        Method::Zstd => {
            return zstd::bulk::compress(data, zstd::DEFAULT_COMPRESSION_LEVEL)
                .map_err(|_| CompressionError::Corrupt("zstd"));
        }
    };
    written.expect("reading from memory and compressing into memory cannot fail");
    Ok(out)
}

/// Decompresses a body that may be hostile: no more than `limit` bytes of it are ever produced.
pub fn decompress(data: &[u8], content_type: &str, limit: usize) -> Result<Vec<u8>, CompressionError> {
    match Method::parse(content_type)? {
        Method::Zlib => inflate(data, limit),
        Method::Bzip2 => read_all(bzip2::read::MultiBzDecoder::new(data), "bzip2", limit),
        Method::Zstd => {
            let corrupt = |_| CompressionError::Corrupt("zstd");
            let mut decoder = zstd::stream::read::Decoder::with_buffer(data).map_err(corrupt)?;
            let window = limit.checked_next_power_of_two().map_or(u32::MAX, usize::ilog2);
            decoder.window_log_max(window.clamp(ZSTD_WINDOW_LOG, 27)).map_err(corrupt)?;
            read_all(decoder, "zstd", limit)
        }
    }
}

/// By hand, since flate2's reader takes a stream that is cut short for one that has ended.
fn inflate(data: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
    let mut decoder = Decompress::new(true);
    let mut out = Vec::with_capacity(data.len().saturating_mul(4).clamp(64, 1 << 16).min(limit));
    loop {
        if out.len() == out.capacity() && out.len() < limit {
            out.reserve_exact(out.len().max(64).min(limit - out.len()));
        }
        if out.len() > limit {
            return Err(CompressionError::TooLarge { limit });
        }
        let full = out.len() == limit;
        let (read, written) = (decoder.total_in(), decoder.total_out());
        let rest = &data[usize::try_from(read).unwrap_or(data.len())..];
        // At the limit one byte of room tells whether the stream ends here or goes on.
        let mut probe = [0; 1];
        let status = if full {
            decoder.decompress(rest, &mut probe, FlushDecompress::None)
        } else {
            decoder.decompress_vec(rest, &mut out, FlushDecompress::None)
        };
        match status {
            Ok(_) if full && decoder.total_out() > written => {
                return Err(CompressionError::TooLarge { limit });
            }
            Ok(Status::StreamEnd) => return Ok(out),
            Ok(_) if decoder.total_in() > read || decoder.total_out() > written => {}
            Ok(_) | Err(_) => return Err(CompressionError::Corrupt("zlib")),
        }
    }
}

fn read_all(mut decoder: impl Read, name: &'static str, limit: usize) -> Result<Vec<u8>, CompressionError> {
    let mut out = Vec::new();
    let corrupt = |_| CompressionError::Corrupt(name);
    (&mut decoder).take(limit as u64).read_to_end(&mut out).map_err(corrupt)?;
    if out.len() == limit && decoder.read(&mut [0; 1]).map_err(corrupt)? > 0 {
        return Err(CompressionError::TooLarge { limit });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 3] = ["application/x-gzip", "application/x-bz2", "application/zstd"];

    #[test]
    fn what_is_compressed_comes_back_by_every_name() {
        for name in ["gzip", "zlib", "bzip2", "bzip", "zstd", "zstandard"].into_iter().chain(ALL) {
            for data in [&b""[..], b"x", &vec![7; 100_000]] {
                let packed = compress(data, name).unwrap();
                assert_eq!(decompress(&packed, name, 100_000).unwrap(), data, "{name}");
            }
        }
    }

    #[test]
    fn the_limit_is_exact_and_holds_against_a_bomb() {
        let bomb = vec![0; 50_000_000];
        for name in ALL {
            let packed = compress(&bomb, name).unwrap();
            assert!(packed.len() < 100_000, "{name}");
            let limit = 4096;
            assert_eq!(decompress(&packed, name, limit), Err(CompressionError::TooLarge { limit }), "{name}");
            let exact = compress(&bomb[..limit], name).unwrap();
            assert_eq!(decompress(&exact, name, limit).unwrap().len(), limit, "{name}");
            assert!(decompress(&exact, name, limit - 1).is_err(), "{name}");
            assert!(decompress(&exact, name, 0).is_err(), "{name}");
            assert_eq!(decompress(&exact, name, usize::MAX).unwrap().len(), limit, "{name}");
        }
    }

    #[test]
    fn data_that_is_cut_short_is_an_error() {
        for name in ALL {
            let packed = compress(b"some text, long enough to be cut", name).unwrap();
            for end in 0..packed.len() {
                let result = decompress(&packed[..end], name, 1000);
                assert!(matches!(result, Err(CompressionError::Corrupt(_))), "{name} cut at {end}");
            }
        }
    }

    #[test]
    fn what_the_engine_does_not_speak_is_told_apart_from_what_nobody_does() {
        for name in ["lzma", "xz", "application/x-lzma", "brotli", "application/x-brotli"] {
            assert!(matches!(decompress(b"", name, 1), Err(CompressionError::Unsupported(_))), "{name}");
            assert!(matches!(compress(b"", name), Err(CompressionError::Unsupported(_))), "{name}");
        }
        assert_eq!(decompress(b"", "application/x-nope", 1), Err(CompressionError::Unknown));
    }
}

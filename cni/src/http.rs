//! As much of HTTP/1.1 as it takes to ask the agent one thing (RFC 9112).

use std::{
    io::{self, BufRead as _, BufReader, Read, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// Largest answer taken, in bytes; the agent's are some hundred.
const ANSWER_LIMIT: u64 = 1 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// Nobody listens; nothing was asked.
    Unreachable(io::Error),
    /// The conversation broke off; what was asked may have been done.
    Lost(io::Error),
}

/// Sends one request; returns status and body.
///
/// # Errors
/// [`Failure`].
pub fn ask(
    socket: &Path,
    method: &str,
    path: &str,
    body: &[u8],
    timeout: Duration,
) -> Result<(u16, Vec<u8>), Failure> {
    let stream = UnixStream::connect(socket).map_err(Failure::Unreachable)?;
    exchange(&stream, method, path, body, timeout).map_err(Failure::Lost)
}

fn exchange(
    mut stream: &UnixStream,
    method: &str,
    path: &str,
    body: &[u8],
    timeout: Duration,
) -> io::Result<(u16, Vec<u8>)> {
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    // In one piece, so that the agent wakes up once.
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    stream.write_all(&request)?;
    read_response(BufReader::new(stream.take(ANSWER_LIMIT)))
}

/// Reads a response that has a length or ends with the connection; the agent
/// sends no other.
fn read_response(mut reader: BufReader<impl Read>) -> io::Result<(u16, Vec<u8>)> {
    let malformed = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let status = line
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| malformed("the answer is no HTTP"))?;
    let mut length = None;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let header = line.trim_end();
        if header.is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                let value = value.trim().parse::<u64>();
                length = Some(value.map_err(|_| malformed("a length that is no number"))?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                return Err(malformed("an answer in chunks"));
            }
        }
    }
    let mut body = Vec::new();
    match length {
        Some(length) if length > ANSWER_LIMIT => return Err(malformed("an answer without end")),
        Some(length) => {
            body.resize(length as usize, 0);
            reader.read_exact(&mut body)?;
        }
        None => {
            reader.read_to_end(&mut body)?;
        }
    }
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<(u16, Vec<u8>)> {
        read_response(BufReader::new(text.as_bytes()))
    }

    #[test]
    fn answers_have_a_length_or_end() {
        let (status, body) =
            read("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ndate: x\r\n\r\n{}rest").unwrap();
        assert_eq!((status, body.as_slice()), (200, b"{}".as_slice()));
        let (status, body) = read("HTTP/1.1 404 Not Found\r\n\r\nall").unwrap();
        assert_eq!((status, body.as_slice()), (404, b"all".as_slice()));
    }

    #[test]
    fn a_broken_answer_is_an_error() {
        for text in [
            "",
            "nonsense",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}

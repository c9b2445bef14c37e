//! A connection that applies the same limits to every request.
//!
//! `actix-http` limits the time of the head of the first request on a connection only, parses heads
//! of up to 128 KiB, and parses pipelined requests without end while one is under way. A
//! [`Guarded`] stream in front of it detects where requests begin and end. It passes a head on once
//! it is complete, and once the previous request was answered.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::web::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Maximum size of the head of a request in bytes, as in nginx and HAProxy by default.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Maximum size of a body in bytes as it is transferred: the maximum of any route, and some room
/// for the chunks.
pub const BODY_BYTES_MAX: u64 = 1024 * 1024 + 64 * 1024;

/// Maximum size of the line with the size of a chunk, and of the trailer section.
const CHUNK_LINE_BYTES_MAX: usize = 1024;
const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Maximum bytes of empty lines before a request. RFC 9112, section 2.2 asks to ignore at least
/// one.
const EMPTY_BYTES_MAX: usize = 8;

/// Time limit from the first byte of a head to its last.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// Time limit of the rest of a body. A route that reads the body answers 408 after 15 s, and that
/// answer comes first.
const BODY_TIME: Duration = Duration::from_millis(15_500);

/// Time limit for a blocked write to make progress.
const WRITE_TIME: Duration = Duration::from_secs(30);

/// Time and bytes for which a refused client may continue to send, so that it can read the refusal.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 1024 * 1024;

/// An interim answer, as `actix-http` writes it.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Reason why a head was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: a head is wrong, late or too long"
)]
pub enum HeadRefusal {
    /// Its lines do not end properly, so that two readers could see different requests.
    Malformed,
    /// It was not complete in time.
    Timeout,
    /// It is too long.
    TooLarge,
}

/// Numbers of refused heads, by reason.
static HEADS_REFUSED: [AtomicU64; HeadRefusal::ALL.len()] = [const { AtomicU64::new(0) }; 3];

impl HeadRefusal {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::Malformed, Self::Timeout, Self::TooLarge];

    /// Returns the reason as a label of a metric.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
        }
    }

    /// Returns the number of heads refused for this reason, on all connections since the start of
    /// the process.
    #[must_use]
    pub fn total(self) -> u64 {
        HEADS_REFUSED[self as usize].load(Ordering::Relaxed)
    }

    fn note(self) {
        HEADS_REFUSED[self as usize].fetch_add(1, Ordering::Relaxed);
        // Nothing of the head, because it may contain a key.
        tracing::debug!(reason = self.as_str(), "refused the head of a request");
    }

    const fn answer(self) -> &'static [u8] {
        match self {
            Self::Malformed => b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            Self::Timeout => b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            Self::TooLarge => {
                b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            }
        }
    }
}

/// A part of a request that cannot be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Head(HeadRefusal),
    /// A body. The connection is cut, because its request may have been answered already.
    Body,
}

/// A stream of HTTP/1.1 requests whose heads, bodies and answers have time limits and sizes.
///
/// Offers to upgrade the connection are removed from heads, because no surface accepts one: the
/// connection stays usable. A line that ends without a carriage return is refused, because a proxy
/// in front may see another end.
///
/// Pipelined requests are passed on one at a time: the next one when the answer was flushed, or the
/// first part of an answer that is streamed.
#[derive(Debug)]
pub struct Guarded<T> {
    io: T,
    framing: Framing,
    /// Bytes that were read and not passed on yet: a head that is not complete, or that has to wait
    /// for an answer.
    held: BytesMut,
    /// Number of held bytes that may be passed on.
    approved: usize,
    /// Whether nothing more is read.
    is_over: bool,
    /// The answer to a refused request, written after all other answers.
    refusal: &'static [u8],
    lingers: bool,
    lingered: u64,
    is_shut: bool,
    reading: Timer,
    writing: Timer,
    write_time: Duration,
}

/// A deadline that costs nothing until it is needed.
#[derive(Debug, Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Returns whether the time is over. It starts with the first call.
    fn is_over(&mut self, time: Duration, context: &mut Context<'_>) -> bool {
        let sleep = self
            .0
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + time)));
        sleep.as_mut().poll(context).is_ready()
    }

    fn stop(&mut self) {
        self.0 = None;
    }
}

impl<T> Guarded<T> {
    /// Guards a stream on which nothing was read yet.
    pub fn new(io: T) -> Self {
        Self {
            io,
            framing: Framing::default(),
            held: BytesMut::new(),
            approved: 0,
            is_over: false,
            refusal: &[],
            lingers: false,
            lingered: 0,
            is_shut: false,
            reading: Timer::default(),
            writing: Timer::default(),
            write_time: WRITE_TIME,
        }
    }

    fn refuse(&mut self, refused: Refused) {
        self.is_over = true;
        self.lingers = true;
        match refused {
            Refused::Head(head) => {
                head.note();
                self.refusal = head.answer();
            }
            // The client could read the answer while it sent the body.
            Refused::Body if self.framing.turn == Turn::Answered => {
                self.lingered = self.framing.body;
            }
            Refused::Body => {}
        }
        self.held.truncate(self.approved);
    }

    /// Applies the result of parsing new bytes.
    fn judge(&mut self, judged: Result<(), Refused>) {
        if std::mem::take(&mut self.framing.has_ended) {
            // The next part has a time limit of its own.
            self.reading.stop();
        }
        match judged {
            Ok(()) if self.framing.phase == Phase::Unknown => {
                self.is_over = true;
                self.lingers = true;
            }
            Ok(()) => {}
            Err(refused) => self.refuse(refused),
        }
    }

    fn approve_held(&mut self) {
        let (count, judged) = self.framing.approve(&mut self.held);
        self.approved = count;
        self.judge(judged);
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.approved > 0 {
                let count = this.approved.min(buffer.remaining());
                buffer.put_slice(&this.held.split_to(count));
                this.approved -= count;
                return Poll::Ready(Ok(()));
            }
            if this.is_over {
                return Poll::Ready(Ok(()));
            }
            if this.framing.is_answer_due() && !this.held.is_empty() {
                // The flush of the answer wakes the task.
                return Poll::Pending;
            }
            let start = buffer.filled().len();
            if Pin::new(&mut this.io)
                .poll_read(context, buffer)?
                .is_pending()
            {
                let time = match this.framing.phase {
                    Phase::Head if this.held.is_empty() => return Poll::Pending,
                    Phase::Head => HEAD_TIME,
                    _ => BODY_TIME,
                };
                if !this.reading.is_over(time, context) {
                    return Poll::Pending;
                }
                let is_head = this.framing.phase == Phase::Head;
                this.refuse(if is_head {
                    Refused::Head(HeadRefusal::Timeout)
                } else {
                    Refused::Body
                });
                continue;
            }
            let end = buffer.filled().len();
            if end == start {
                this.is_over = true;
                return Poll::Ready(Ok(()));
            }
            if this.held.is_empty() {
                // The usual case: whole requests, which stay where they are.
                let bytes = &mut buffer.filled_mut()[start..];
                let (count, judged) = this.framing.approve(bytes);
                this.held.extend_from_slice(&bytes[count..]);
                buffer.set_filled(start + count);
                this.judge(judged);
                if count > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                this.held.extend_from_slice(&buffer.filled()[start..]);
                buffer.set_filled(start);
                this.approve_held();
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(context, bytes);
        if written.is_ready() {
            this.writing.stop();
        } else if this.writing.is_over(this.write_time, context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        // The rest of an interim answer is not an answer either.
        if matches!(written, Poll::Ready(Ok(1..)))
            && this.framing.turn == Turn::Server
            && !CONTINUE.ends_with(bytes)
        {
            this.framing.turn = Turn::Answered;
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // All available bytes of the answer were written, or it would not be flushed.
        if this.framing.turn == Turn::Answered && this.framing.phase == Phase::Head {
            this.framing.turn = Turn::Client;
            if !this.held.is_empty() {
                this.approve_held();
                context.waker().wake_by_ref();
            }
        }
        Pin::new(&mut this.io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // The last answer had `Connection: close`, and more requests had already arrived.
        this.lingers |= this.approved > 0;
        while !this.refusal.is_empty() {
            let refusal = this.refusal;
            let count = ready!(Pin::new(&mut *this).poll_write(context, refusal))?;
            if count == 0 {
                break;
            }
            this.refusal = &refusal[count..];
        }
        if !this.is_shut {
            ready!(Pin::new(&mut this.io).poll_shutdown(context))?;
            this.is_shut = true;
            this.reading.stop();
        }
        // A socket that is closed with unread bytes resets the connection, and the client may lose
        // the refusal.
        while this.lingers && this.lingered < LINGER_BYTES_MAX {
            let mut scratch = [0; 4096];
            let mut scratch = ReadBuf::new(&mut scratch);
            let read = Pin::new(&mut this.io).poll_read(context, &mut scratch);
            if read.is_pending() && !this.reading.is_over(LINGER_TIME, context) {
                return Poll::Pending;
            }
            let count = scratch.filled().len();
            this.lingered += count as u64;
            this.lingers = count > 0;
        }
        Poll::Ready(Ok(()))
    }
}

/// Part of the request that the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Head,
    /// A body with that many bytes to come.
    Body(u64),
    /// In the line with the size of a chunk.
    ChunkLine(ChunkLine),
    /// In a chunk, with its line end.
    Chunk(u64),
    /// In the trailer section.
    Trailer(Trailer),
    /// The parser refuses the request, or its body ends with the connection. Nothing more is passed
    /// on.
    Unknown,
}

/// State of the line with the size of a chunk.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct ChunkLine {
    size: u64,
    length: usize,
    /// Whether the part after the size, such as an extension, has begun.
    is_past_size: bool,
    /// Whether the last byte was a carriage return.
    is_ending: bool,
}

/// State of the trailer section.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Trailer {
    length: usize,
    is_line_begun: bool,
    /// Whether the last byte was a carriage return.
    is_ending: bool,
}

/// The side that has to continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The client, with a request.
    Client,
    /// The server, which has received a head, with its answer.
    Server,
    /// The answer has begun. Its request may be incomplete.
    Answered,
}

#[derive(Debug)]
struct Framing {
    phase: Phase,
    turn: Turn,
    /// Bytes of the current body so far.
    body: u64,
    /// Whether a head or a body has ended since this was last read.
    has_ended: bool,
}

impl Default for Framing {
    fn default() -> Self {
        Self {
            phase: Phase::Head,
            turn: Turn::Client,
            body: 0,
            has_ended: false,
        }
    }
}

impl Framing {
    /// Returns whether a whole request was passed on and no further one may be.
    fn is_answer_due(&self) -> bool {
        self.phase == Phase::Head && self.turn != Turn::Client
    }

    /// Returns the maximum. After the answer, a body is only read so that the client can read the
    /// answer.
    fn body_bytes_max(&self) -> u64 {
        match self.turn {
            Turn::Answered => LINGER_BYTES_MAX,
            _ => BODY_BYTES_MAX,
        }
    }

    /// Returns how many of the bytes may be passed on. On an error, nothing may be read after
    /// those.
    fn approve(&mut self, bytes: &mut [u8]) -> (usize, Result<(), Refused>) {
        let mut at = 0;
        while at < bytes.len() && !self.is_answer_due() {
            let rest = &mut bytes[at..];
            if self.phase == Phase::Head {
                let length = match complete_head(rest) {
                    Ok(Some(length)) => length,
                    Ok(None) => break,
                    Err(refusal) => return (at, Err(Refused::Head(refusal))),
                };
                self.phase = inspect(&mut rest[..length]);
                self.turn = Turn::Server;
                self.body = 0;
                self.has_ended = true;
                at += length;
                if self.phase == Phase::Unknown {
                    break;
                }
                continue;
            }
            let (count, phase) = self.phase.advance(rest);
            at += count;
            self.body += count as u64;
            match phase {
                Some(phase) if self.body <= self.body_bytes_max() => {
                    self.has_ended |= phase == Phase::Head;
                    self.phase = phase;
                }
                _ => return (at, Err(Refused::Body)),
            }
        }
        (at, Ok(()))
    }
}

impl Phase {
    /// Advances through a body. Returns how many bytes belong to this step, and `None` if they are
    /// invalid.
    fn advance(self, bytes: &[u8]) -> (usize, Option<Self>) {
        match self {
            Self::Body(left) | Self::Chunk(left) => {
                let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let next = match (self, left - count as u64) {
                    (Self::Body(_), 0) => Self::Head,
                    (Self::Body(_), left) => Self::Body(left),
                    (_, 0) => Self::ChunkLine(ChunkLine::default()),
                    (_, left) => Self::Chunk(left),
                };
                (count, Some(next))
            }
            Self::ChunkLine(line) => (1, line.advance(bytes[0])),
            Self::Trailer(trailer) => (1, trailer.advance(bytes[0])),
            Self::Head | Self::Unknown => (bytes.len(), Some(self)),
        }
    }
}

impl ChunkLine {
    /// Line feed and carriage return end the line together. Otherwise the parser may see another
    /// end.
    fn advance(mut self, byte: u8) -> Option<Phase> {
        match (byte, self.is_ending) {
            (b'\n', true) if self.size == 0 => return Some(Phase::Trailer(Trailer::default())),
            // The line end after the data belongs to the chunk.
            (b'\n', true) => return self.size.checked_add(2).map(Phase::Chunk),
            (b'\n', false) | (_, true) => return None,
            (b'\r', false) => self.is_ending = true,
            (_, false) => match char::from(byte).to_digit(16) {
                Some(digit) if !self.is_past_size => {
                    self.size = self.size.checked_mul(16)?.checked_add(digit.into())?;
                }
                _ => self.is_past_size = true,
            },
        }
        self.length += 1;
        (self.length <= CHUNK_LINE_BYTES_MAX).then_some(Phase::ChunkLine(self))
    }
}

impl Trailer {
    /// Line ends are checked as in [`ChunkLine::advance`].
    fn advance(mut self, byte: u8) -> Option<Phase> {
        match (byte, self.is_ending) {
            (b'\n', true) if !self.is_line_begun => return Some(Phase::Head),
            (b'\n', true) => (self.is_line_begun, self.is_ending) = (false, false),
            (b'\n', false) | (_, true) => return None,
            (b'\r', false) => self.is_ending = true,
            (_, false) => self.is_line_begun = true,
        }
        self.length += 1;
        (self.length <= TRAILER_BYTES_MAX).then_some(Phase::Trailer(self))
    }
}

/// Returns the number of bytes of empty lines at the beginning.
fn blank_len(bytes: &[u8]) -> usize {
    let is_line_end = |byte: &&u8| matches!(byte, b'\r' | b'\n');
    bytes.iter().take_while(is_line_end).count()
}

/// Returns the length of the head at the beginning, once it is complete.
fn complete_head(bytes: &[u8]) -> Result<Option<usize>, HeadRefusal> {
    let blank = blank_len(bytes);
    if blank > EMPTY_BYTES_MAX {
        return Err(HeadRefusal::Malformed);
    }
    let mut from = blank;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == b'\n') {
        let end = from + at;
        if end >= HEAD_BYTES_MAX {
            return Err(HeadRefusal::TooLarge);
        }
        if end == 0 || bytes[end - 1] != b'\r' {
            return Err(HeadRefusal::Malformed);
        }
        if end >= blank + 3 && bytes[end - 3..end].ends_with(b"\r\n\r")
            || at == 1 && end > blank + 1
        {
            return Ok(Some(end + 1));
        }
        from = end + 1;
    }
    if bytes.len() >= HEAD_BYTES_MAX {
        return Err(HeadRefusal::TooLarge);
    }
    Ok(None)
}

/// Determines the part after a complete head, and removes offers to upgrade from the head.
fn inspect(head: &mut [u8]) -> Phase {
    let (mut length, mut is_chunked, mut is_unknown) = (None, false, false);
    let blank = blank_len(head);
    let head = &mut head[blank..];
    if head.starts_with(b"CONNECT ") {
        is_unknown = true;
    }
    for line in head.split_mut(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = line.split_at_mut(colon);
        let value = &mut value[1..];
        // By the length first, which rules out nearly all of them.
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => name.copy_from_slice(b"ignored"),
            10 if name.eq_ignore_ascii_case(b"connection") => {
                let options = value.split_mut(|byte| *byte == b',');
                for option in options {
                    if option.trim_ascii().eq_ignore_ascii_case(b"upgrade") {
                        // Carriage returns are kept.
                        for byte in option.iter_mut().filter(|byte| **byte != b'\r') {
                            *byte = b' ';
                        }
                    }
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let digits = value.trim_ascii();
                let parsed = digits
                    .iter()
                    .all(u8::is_ascii_digit)
                    .then(|| str::from_utf8(digits).ok()?.parse::<u64>().ok())
                    .flatten();
                is_unknown |= length.is_some() || parsed.is_none();
                length = parsed;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                let is_plain = value.trim_ascii().eq_ignore_ascii_case(b"chunked");
                is_unknown |= is_chunked || !is_plain;
                is_chunked = true;
            }
            _ => {}
        }
    }
    match (is_unknown || is_chunked && length.is_some(), length) {
        (true, _) => Phase::Unknown,
        (false, _) if is_chunked => Phase::ChunkLine(ChunkLine::default()),
        (false, None | Some(0)) => Phase::Head,
        (false, Some(length)) => Phase::Body(length),
    }
}

#[cfg(test)]
mod tests {
    use actix_http::ServiceConfig;
    use actix_http::h1::{Codec, Message, MessageType};
    use proptest::prop_assert;
    use proptest::test_runner::{Config, TestRunner};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_util::codec::Decoder as _;

    use super::*;

    /// Returns the part of `text` that is passed on, in pieces of `size` bytes, and the refusal.
    fn passed(text: &[u8], size: usize) -> (Vec<u8>, Option<Refused>) {
        let (passed, _, refused) = requests(text, size);
        (passed, refused)
    }

    /// Like [`passed`], with the positions where requests end.
    fn requests(text: &[u8], size: usize) -> (Vec<u8>, Vec<usize>, Option<Refused>) {
        let (mut framing, mut held) = (Framing::default(), Vec::new());
        let (mut passed, mut ends) = (Vec::new(), Vec::new());
        for piece in text.chunks(size) {
            held.extend_from_slice(piece);
            loop {
                let (count, judged) = framing.approve(&mut held);
                passed.extend(held.drain(..count));
                if judged.is_err() || framing.phase == Phase::Unknown {
                    return (passed, ends, judged.err());
                }
                if !framing.is_answer_due() {
                    break;
                }
                ends.push(passed.len());
                framing.turn = Turn::Client;
            }
        }
        (passed, ends, None)
    }

    #[test]
    fn whole_requests_are_passed_on_however_they_are_cut() {
        let text: &[u8] = b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc\
            POST / HTTP/1.1\r\nTransfer-Encoding: Chunked \r\n\r\n3;a=b\r\nabc\r\n00a\r\n0123456789\r\n0\r\nA: b\r\n\r\n\
            GET / HTTP/1.1\r\n\r\n";
        for size in 1..text.len() {
            assert_eq!(passed(text, size), (text.to_vec(), None), "{size}");
            // An incomplete head is not passed on.
            let cut = &text[..text.len() - 1];
            assert_eq!(passed(cut, size).0.len(), text.len() - 18, "{size}");
        }
    }

    #[test]
    fn offers_to_upgrade_are_taken_out() {
        let text = b"POST / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUPGRADE: h2c\r\nContent-Length: 2\r\n\r\nab";
        let expected = b"POST / HTTP/1.1\r\nConnection:        , HTTP2-Settings\r\nignored: h2c\r\nContent-Length: 2\r\n\r\nab";
        assert_eq!(passed(text, 7), (expected.to_vec(), None));
        let text = b"GET / HTTP/1.1\r\nconnection: upgrade\r\n\r\n";
        let expected = b"GET / HTTP/1.1\r\nconnection:        \r\n\r\n";
        assert_eq!(passed(text, 100), (expected.to_vec(), None));
    }

    #[test]
    fn ambiguous_and_large_heads_are_refused() {
        let large = format!("GET / HTTP/1.1\r\n{}: x\r\n\r\n", "a".repeat(65_536));
        for (text, refusal) in [
            (
                b"GET / HTTP/1.1\nHost: x\n\n".as_slice(),
                HeadRefusal::Malformed,
            ),
            (
                b"GET / HTTP/1.1\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n",
                HeadRefusal::Malformed,
            ),
            (b"\r\n\r\n\r\n\r\n\r\n\r\n", HeadRefusal::Malformed),
            (large.as_bytes(), HeadRefusal::TooLarge),
        ] {
            for size in [1, 7, 100_000] {
                let (passed, refused) = passed(text, size);
                assert!(passed.is_empty());
                assert_eq!(
                    refused,
                    Some(Refused::Head(refusal)),
                    "{:?}",
                    text.escape_ascii().to_string()
                );
            }
        }
    }

    #[test]
    fn line_ends_that_a_parser_may_read_in_another_way_end_the_connection() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for body in [
            "0\r\n\n",
            "0\n\r\n",
            "0\r\r\n",
            "0\r\nA\n\r\n",
            "0\r\n\rA\r\n",
            "1\ra\r\n",
        ] {
            let (_, refused) = passed(format!("{head}{body}").as_bytes(), 8192);
            assert_eq!(refused, Some(Refused::Body), "{body:?}");
        }
        // Any number of zeros is part of the size.
        let next = format!("{}2d\r\n", "0".repeat(20));
        let (passed, refused) = passed(format!("{head}{next}\r\n\r\n").as_bytes(), 8192);
        assert_eq!((passed.len(), refused), (head.len() + next.len() + 4, None));
    }

    /// The guard sees the end of a request where the parser does, or the parser refuses the
    /// request.
    #[actix_web::test]
    async fn requests_end_where_the_parser_sees_their_ends() {
        let config = Config {
            cases: 20_000,
            failure_persistence: None,
            ..Config::default()
        };
        let pieces = proptest::collection::vec(proptest::sample::select(PIECES), 0..24);
        let parser = ServiceConfig::default();
        let ran = TestRunner::new(config).run(&(pieces, 1_usize..64), |(pieces, size)| {
            let text = pieces.concat();
            let (passed, ends, _) = requests(text.as_bytes(), size);
            let (parsed, is_refused) = parsed(&parser, &passed);
            let is_prefix = ends.starts_with(&parsed);
            let is_all = is_refused || parsed.len() == ends.len();
            prop_assert!(
                is_prefix && is_all,
                "{ends:?} {parsed:?} {is_refused} {text:?}"
            );
            Ok(())
        });
        assert!(ran.is_ok(), "{}", ran.unwrap_err());
    }

    /// Parts of requests, valid and almost valid.
    const PIECES: &[&str] = &[
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
        "Content-Length: 3",
        "Transfer-Encoding: identity",
        "0\r\n\r\n",
        "0\r\n",
        "3\r\nabc\r\n",
        "00000000000000000000",
        "ffffffffffffffff",
        "5",
        "a",
        "0",
        "B",
        ";a=b",
        " ",
        "\t",
        "A: b",
        ":",
        "\r\n",
        "\r\n",
        "\r\n\r\n",
        "\r",
        "\n",
        "\u{b}",
        "\0",
    ];

    /// Returns where the parser sees requests end, and whether it refuses the next one.
    fn parsed(parser: &ServiceConfig, text: &[u8]) -> (Vec<usize>, bool) {
        let mut codec = Codec::new(parser.clone());
        let mut rest = BytesMut::from(text);
        let mut ends = Vec::new();
        loop {
            let is_end = match codec.decode(&mut rest) {
                Ok(Some(Message::Item(_))) => matches!(codec.message_type(), MessageType::None),
                Ok(Some(Message::Chunk(chunk))) => chunk.is_none(),
                Ok(None) => return (ends, false),
                Err(_) => return (ends, true),
            };
            if is_end {
                ends.push(text.len() - rest.len());
            }
        }
    }

    #[test]
    fn bodies_without_end_are_cut() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for body in [
            format!("1;{}\r\na\r\n", "x".repeat(200_000)),
            format!("0\r\n{}", "A: b\r\n".repeat(100_000)),
            ("400\r\n".to_owned() + &"x".repeat(1024) + "\r\n").repeat(2_000),
            "f".repeat(17) + "\r\n",
            "0".repeat(2_000) + "\r\n\r\n",
        ] {
            let (passed, refused) = passed((head.to_owned() + &body).as_bytes(), 8192);
            assert!(passed.len() < 1_200_000, "{}", passed.len());
            assert_eq!(refused, Some(Refused::Body));
        }
    }

    /// Returns the next bytes that are passed on, if any.
    async fn next(guarded: &mut Guarded<tokio::io::DuplexStream>) -> Option<String> {
        let mut bytes = [0; 8192];
        let read = tokio::time::timeout(Duration::from_millis(50), guarded.read(&mut bytes));
        let count = read.await.ok()?.unwrap();
        Some(String::from_utf8_lossy(&bytes[..count]).into_owned())
    }

    async fn answer(guarded: &mut Guarded<tokio::io::DuplexStream>, answer: &[u8]) {
        guarded.write_all(answer).await.unwrap();
        guarded.flush().await.unwrap();
    }

    #[tokio::test]
    async fn requests_are_passed_on_one_at_a_time() {
        const FIRST: &str = "POST /1 HTTP/1.1\r\nContent-Length: 2\r\n\r\n";
        const SECOND: &str = "GET /2 HTTP/1.1\r\n\r\n";
        const THIRD: &str = "GET /3 HTTP/1.1\r\n\r\n";
        let (server, mut client) = tokio::io::duplex(100_000);
        let mut guarded = Guarded::new(server);
        let text = format!("{FIRST}ab{SECOND}{THIRD}{FIRST}");
        client.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(next(&mut guarded).await, Some(format!("{FIRST}ab")));
        assert_eq!(next(&mut guarded).await, None);
        // An interim answer is not an answer, and neither is the rest of one.
        answer(&mut guarded, CONTINUE).await;
        answer(&mut guarded, &CONTINUE[9..]).await;
        assert_eq!(next(&mut guarded).await, None);
        // Neither is one that is not flushed.
        guarded.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        assert_eq!(next(&mut guarded).await, None);
        answer(&mut guarded, b"\r\n").await;
        assert_eq!(next(&mut guarded).await.as_deref(), Some(SECOND));
        assert_eq!(next(&mut guarded).await, None);
        answer(&mut guarded, b"HTTP/1.1 200 OK\r\n\r\n").await;
        assert_eq!(next(&mut guarded).await.as_deref(), Some(THIRD));
        answer(&mut guarded, b"HTTP/1.1 200 OK\r\n\r\n").await;
        // Answered before its body has arrived.
        assert_eq!(next(&mut guarded).await.as_deref(), Some(FIRST));
        answer(&mut guarded, b"HTTP/1.1 401 Unauthorized\r\n\r\n").await;
        let text = format!("ab{SECOND}");
        client.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(next(&mut guarded).await.as_deref(), Some("ab"));
        assert_eq!(next(&mut guarded).await, None);
        guarded.flush().await.unwrap();
        assert_eq!(next(&mut guarded).await.as_deref(), Some(SECOND));
    }

    #[tokio::test]
    async fn body_of_an_answered_request_is_taken_up_to_one_maximum() {
        const BUFFER: usize = 65_536;
        let (server, mut client) = tokio::io::duplex(BUFFER);
        let mut guarded = Guarded::new(server);
        let head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.write_all(head).await.unwrap();
        let piece = format!("1000\r\n{}\r\n", "x".repeat(4096));
        let sent = tokio::spawn(async move {
            let mut sent = 0;
            while client.write_all(piece.as_bytes()).await.is_ok() {
                sent += piece.len();
            }
            sent
        });
        assert!(next(&mut guarded).await.is_some());
        answer(&mut guarded, b"HTTP/1.1 404 Not Found\r\n\r\n").await;
        while next(&mut guarded)
            .await
            .is_some_and(|passed| !passed.is_empty())
        {}
        guarded.shutdown().await.unwrap();
        drop(guarded);
        let sent = sent.await.unwrap();
        let most = usize::try_from(LINGER_BYTES_MAX).unwrap() + 2 * BUFFER;
        assert!(sent < most, "{sent}");
    }

    #[tokio::test]
    async fn only_the_answer_to_a_pipelining_client_wakes() {
        /// The number of calls.
        #[derive(Default)]
        struct Wakes(std::sync::atomic::AtomicUsize);

        impl std::task::Wake for Wakes {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }

        for (requests, expected) in [(1, 0), (2, 1)] {
            let (server, mut client) = tokio::io::duplex(100_000);
            let mut guarded = Guarded::new(server);
            let text = b"GET / HTTP/1.1\r\n\r\n".repeat(requests);
            client.write_all(&text).await.unwrap();
            assert!(next(&mut guarded).await.is_some());
            guarded.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let wakes = std::sync::Arc::new(Wakes::default());
            let waker = std::sync::Arc::clone(&wakes).into();
            let flushed = Pin::new(&mut guarded).poll_flush(&mut Context::from_waker(&waker));
            assert!(flushed.is_ready());
            let wakes = wakes.0.load(std::sync::atomic::Ordering::Relaxed);
            assert_eq!(wakes, expected);
        }
    }

    #[tokio::test]
    async fn writes_that_make_no_progress_are_given_up() {
        const SHORT: Duration = Duration::from_millis(600);
        let (server, mut client) = tokio::io::duplex(16);
        let mut guarded = Guarded::new(server);
        assert_eq!(guarded.write_time, Duration::from_secs(30));
        guarded.write_time = SHORT;
        let start = Instant::now();
        // A client that reads slowly keeps its connection.
        let read = async {
            for _ in 0..8 {
                tokio::time::sleep(SHORT / 6).await;
                client.read_exact(&mut [0; 16]).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            written = guarded.write_all(&[b'x'; 1024]) => written.unwrap_err(),
            () = read => unreachable!("it waits for ever"),
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= SHORT / 6 * 8 + SHORT);
    }
}

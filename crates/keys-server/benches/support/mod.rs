//! Shared parts of the benchmarks of many servers and of large sizes: a blocking client, times,
//! processor time and settings.
#![allow(dead_code, reason = "each benchmark uses a part")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Settings with plan limits that are never reached.
pub(crate) const UNLIMITED: &str = "\
[plans.pro]
keys = true
keys_max = 4000000000
[plans.pro.limits]
create = { requests = 4000000000, period_seconds = 1 }
list = { requests = 4000000000, period_seconds = 1 }
delete = { requests = 4000000000, period_seconds = 1 }
";

/// Time limit of an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// One connection to a server. Opened again when the server has closed it.
pub(crate) struct Client {
    address: String,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

/// An answer: its status and its body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Client {
    /// Connects to `url`, the result of `Server::url("")`.
    pub(crate) fn new(url: &str) -> Self {
        let address = url.strip_prefix("http://").expect("a plain URL").to_owned();
        Self {
            address,
            stream: None,
            buffer: Vec::new(),
        }
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn call(
        &mut self,
        method: &str,
        path: &str,
        credential: &str,
        body: Option<&str>,
    ) -> std::io::Result<Answer> {
        let body = body.unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {credential}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = self.exchange(request.as_bytes());
        if answer.is_err() {
            self.stream = None;
        }
        answer
    }

    fn exchange(&mut self, request: &[u8]) -> std::io::Result<Answer> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect(&self.address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                none.insert(stream)
            }
        };
        stream.write_all(request)?;
        self.buffer.clear();
        let mut chunk = [0; 16 * 1_024];
        loop {
            let read = stream.read(&mut chunk)?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            self.buffer.extend_from_slice(&chunk[..read]);
            let Some(end) = find(&self.buffer, b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|rest| rest.lines().next()?.trim().parse().ok());
            let body = &self.buffer[end + 4..];
            if body.len() < length.unwrap_or(0) {
                continue;
            }
            let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
            let body = String::from_utf8_lossy(body).into_owned();
            if head.contains("connection: close") {
                self.stream = None;
            }
            return Ok(Answer {
                status: status.ok_or(std::io::ErrorKind::InvalidData)?,
                body,
            });
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// Returns the text of a JSON field that occurs once.
pub(crate) fn field(json: &str, name: &str) -> String {
    let start = format!("\"{name}\":\"");
    let rest = json.split(&start).nth(1);
    let value = rest.and_then(|rest| rest.split('"').next());
    value
        .unwrap_or_else(|| panic!("no {name} in {json}"))
        .to_owned()
}

/// Returns the value below which this percentage of all values is.
pub(crate) fn percentile(values: &mut [Duration], percent: usize) -> Duration {
    values.sort_unstable();
    let place = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(place).copied().unwrap_or_default()
}

pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

/// Processor time of processes in seconds: their own, and that of the kernel on their behalf.
pub(crate) fn cpu_seconds(processes: &[u32]) -> f64 {
    // `_SC_CLK_TCK` is 100 on every Linux architecture that has this file.
    const TICKS_PER_SECOND: f64 = 100.0;
    let ticks: u32 = processes
        .iter()
        .filter_map(|process| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            // After the name, which may contain any character: state, parent, .., and at positions
            // 12 and 13 the two times.
            let words: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            let ticks = |place: usize| words.get(place)?.parse::<u32>().ok();
            Some(ticks(11)? + ticks(12)?)
        })
        .sum();
    f64::from(ticks) / TICKS_PER_SECOND
}

/// Calls `each` at this rate for as long as `lasting`. Calls that are late are not skipped. Returns
/// the duration of each.
pub(crate) fn at_rate(
    a_second: u32,
    lasting: Duration,
    mut each: impl FnMut(usize) -> Duration,
) -> Vec<Duration> {
    let start = Instant::now();
    let pause = Duration::from_secs(1) / a_second;
    let mut took = Vec::new();
    loop {
        let number = took.len();
        let due = pause * u32::try_from(number).expect("few enough");
        if due >= lasting {
            return took;
        }
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        took.push(each(number));
    }
}

//! A scraper: asks for metrics and for health as Prometheus and others do, over TCP or a unix socket.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

/// How long an answer may take: far more than it does, and than a silent client is suffered.
const ANSWER: Duration = Duration::from_secs(30);

/// Where metrics are served.
#[derive(Debug, Clone)]
pub enum Scraper {
    /// At this address.
    Tcp(SocketAddr),
    /// At this unix socket.
    Unix(PathBuf),
}

/// What a path gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The status code of HTTP.
    pub code: u16,
    /// The header's lines.
    pub header: String,
    /// What follows it.
    pub body: String,
}

/// The samples of a scrape: `name{label="value"}` as it is written, and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples(BTreeMap<String, f64>);

impl Scraper {
    /// GET; panics where there is no answer.
    #[track_caller]
    pub fn get(&self, path: &str) -> Page {
        self.try_get(path).unwrap_or_else(|error| panic!("GET {path} of {self:?}: {error}"))
    }

    /// GET, where nobody may be there yet.
    pub fn try_get(&self, path: &str) -> std::io::Result<Page> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: steer\r\n\r\n");
        let mut text = String::new();
        match self {
            Self::Tcp(address) => {
                let mut stream = TcpStream::connect(address)?;
                stream.set_read_timeout(Some(ANSWER))?;
                stream.write_all(request.as_bytes())?;
                stream.read_to_string(&mut text)?;
            }
            Self::Unix(socket) => {
                let mut stream = UnixStream::connect(socket)?;
                stream.set_read_timeout(Some(ANSWER))?;
                stream.write_all(request.as_bytes())?;
                stream.read_to_string(&mut text)?;
            }
        }
        let (header, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let code = header.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.ok_or(std::io::ErrorKind::InvalidData)?;
        Ok(Page { code, header: header.to_owned(), body: body.to_owned() })
    }

    /// `/metrics`.
    #[track_caller]
    pub fn samples(&self) -> Samples {
        let page = self.get("/metrics");
        assert_eq!(page.code, 200, "{page:?}");
        Samples::read(&page.body)
    }
}

impl Samples {
    /// Panics where the text is not whole.
    #[track_caller]
    pub fn read(text: &str) -> Self {
        assert_eq!(text.lines().last(), Some("# EOF"), "{text}");
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
            let value = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
            (sample.to_owned(), value)
        });
        Self(samples.collect())
    }

    /// The value of one sample, written as it is in the text.
    #[track_caller]
    pub fn value(&self, sample: &str) -> f64 {
        *self.0.get(sample).unwrap_or_else(|| panic!("no sample {sample} in {:#?}", self.0))
    }

    /// The sum over a metric's samples.
    #[track_caller]
    pub fn sum(&self, metric: &str) -> f64 {
        let name = |sample: &str| sample.split('{').next() == Some(metric);
        let values: Vec<f64> =
            self.0.iter().filter(|(sample, _)| name(sample)).map(|(_, value)| *value).collect();
        assert!(!values.is_empty(), "no sample of {metric} in {:#?}", self.0);
        values.iter().sum()
    }
}

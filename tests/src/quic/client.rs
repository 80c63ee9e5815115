//! One connection after another from sockets of their own, and what each must be answered.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::QuicClientConfig,
    rustls::{
        self, DigitallySignedStruct, SignatureScheme,
        client::{
            Resumption,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::CryptoProvider,
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};

use super::Shared;
use crate::{datagrams::Owner, wait};

/// After how long without a packet a connection is lost. No packet says only that it lives.
const IDLE: Duration = Duration::from_secs(10);

/// Room for the line before what is echoed.
const LINE_MAX: usize = 128;

/// Where connections follow one another.
pub(super) struct Place {
    pub(super) number: usize,
    pub(super) target: SocketAddr,
    pub(super) config: ClientConfig,
}

impl Place {
    /// One connection, until it is closed here after so many streams or because all is over. An error says how it was lost.
    pub(super) async fn live(&self, shared: &Shared, streams: Option<u32>) -> Result<()> {
        let endpoint = self.endpoint();
        let connecting = endpoint.connect_with(self.config.clone(), self.target, "steer.test");
        let connection = connecting.expect("the target can be connected to").await.context("connecting")?;
        shared.tally().established += 1;
        let mut owner = None;
        let mut asked = 0;
        while !shared.is_over() && streams != Some(asked) {
            asked += 1;
            self.step(shared, &connection, asked, &mut owner).await?;
            if shared.habit.rebind_every.is_some_and(|every| asked % every == 0) {
                endpoint.rebind(self.socket()).expect("an endpoint can have another socket");
                shared.tally().rebinds += 1;
            }
            tokio::time::sleep(shared.habit.pause).await;
        }
        connection.close(VarInt::from_u32(0), b"");
        // Until the other end has been told.
        endpoint.wait_idle().await;
        Ok(())
    }

    async fn step(
        &self,
        shared: &Shared,
        connection: &Connection,
        asked: u32,
        owner: &mut Option<Owner>,
    ) -> Result<()> {
        let (answerer, count) = self.ask(connection, asked, shared.habit.size).await?;
        ensure!(count == u64::from(asked), "a stream was not counted as what it is");
        shared.progress[self.number].fetch_add(1, Relaxed);
        let first = owner.get_or_insert_with(|| answerer.clone());
        let mut tally = shared.tally();
        tally.streams += 1;
        tally.moved += u64::from(*first != answerer);
        shared.owners().insert(self.number, answerer);
        Ok(())
    }

    /// One stream: who has answered, and as the how manieth of the connection.
    async fn ask(&self, connection: &Connection, asked: u32, size: usize) -> Result<(Owner, u64)> {
        let mut sent = format!("{}/{asked} ", self.number).into_bytes();
        sent.resize(sent.len().max(size), b'.');
        let (mut send, mut receive) = connection.open_bi().await.context("opening a stream")?;
        send.write_all(&sent).await.context("asking")?;
        send.finish().context("asking")?;
        let answer = receive.read_to_end(sent.len() + LINE_MAX).await.context("waiting for an answer")?;
        let (owner, count, echoed) = parse(&answer).context("an answer that is none of the server's")?;
        ensure!(echoed == sent, "what came back is not what was sent");
        Ok((owner, count))
    }

    fn endpoint(&self) -> Endpoint {
        let made = Endpoint::new(EndpointConfig::default(), None, self.socket(), Arc::new(TokioRuntime));
        made.expect("an endpoint can be made of a socket")
    }

    fn socket(&self) -> UdpSocket {
        let any: SocketAddr =
            if self.target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        UdpSocket::bind(any).expect("there are ports left")
    }
}

/// `web/0 3 4711 12` and what comes after the line.
fn parse(answer: &[u8]) -> Option<(Owner, u64, &[u8])> {
    let end = answer.iter().position(|byte| *byte == b'\n')?;
    let line = str::from_utf8(&answer[..end]).ok()?;
    let [worker, generation, pid, count] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
    let owner =
        Owner { worker: worker.to_owned(), generation: generation.parse().ok()?, pid: pid.parse().ok()? };
    Some((owner, count.parse().ok()?, &answer[end + 1..]))
}

/// Without resumption: every connection has a whole handshake, and none depends on what another process has given out.
pub(super) fn config() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    tls.resumption = Resumption::disabled();
    let quic = QuicClientConfig::try_from(tls).expect("the provider has what QUIC begins with");
    let mut transport = TransportConfig::default();
    let idle = wait::patient(IDLE).try_into().expect("it is short enough for the protocol");
    transport.max_idle_timeout(Some(idle));
    let mut config = ClientConfig::new(Arc::new(quic));
    config.transport_config(Arc::new(transport));
    config
}

/// Each process of the server has made a certificate for itself; who it is, it says on each stream.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

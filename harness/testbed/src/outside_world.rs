//! What is beyond the LAN: a resolver that nodes and cluster DNS ask, and web servers that have
//! nothing to do with the cluster. All of it exists inside the lab only.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use hickory_proto::op::{Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::namespace::NetNamespace;
use crate::topology::{GATEWAY, OUTSIDE_NAME, OUTSIDE_NAMED, Topology};

const DNS_PORT: u16 = 53;
const HTTP_PORT: u16 = 80;
/// For how many seconds an answer may be kept.
const TTL: u32 = 30;
/// Who says nothing for so long is hung up on.
const IDLE: Duration = Duration::from_secs(10);

/// The servers outside the cluster; dropping this ends them.
pub(crate) struct OutsideWorld {
    _tasks: JoinSet<()>,
}

impl OutsideWorld {
    /// Returns once all of them listen.
    pub(crate) fn start(topology: &Topology) -> anyhow::Result<Self> {
        let mut tasks = JoinSet::new();
        let mut names = vec![(OUTSIDE_NAME.to_owned(), OUTSIDE_NAMED)];
        names.extend(topology.nodes().iter().map(|node| (node.name.clone(), node.ip)));
        let resolver = Arc::new(Resolver { names });
        let at = SocketAddr::from((GATEWAY, DNS_PORT));
        let listen = |namespace: &NetNamespace, at| {
            let listener = namespace.listen(at)?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        let udp = topology.router().run(|| std::net::UdpSocket::bind(at));
        let udp = udp.and_then(|socket| socket).and_then(|socket| {
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        });
        let udp = udp.with_context(|| format!("listen on UDP {at} for the LAN's resolver"))?;
        let tcp = listen(topology.router(), at)
            .with_context(|| format!("listen on TCP {at} for the LAN's resolver"))?;
        tasks.spawn(Arc::clone(&resolver).serve_udp(udp));
        tasks.spawn(resolver.serve_tcp(tcp));
        let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, HTTP_PORT));
        let web = listen(topology.outside(), at)
            .with_context(|| format!("listen on {at} for the world outside"))?;
        tasks.spawn(serve_web(web));
        Ok(Self { _tasks: tasks })
    }
}

/// What a host out there is called.
fn host_name(address: IpAddr) -> String {
    if address == OUTSIDE_NAMED { OUTSIDE_NAME.to_owned() } else { address.to_string() }
}

/// Every host says who it is, whatever it is asked.
async fn serve_web(listener: TcpListener) {
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = clients.join_next() => continue,
        };
        // One that hung up while it waited.
        let Ok((stream, _)) = accepted else { continue };
        let Ok(here) = stream.local_addr() else { continue };
        clients.spawn(async move {
            let answer = Bytes::from(format!("this is {}\n", host_name(here.ip())));
            let service = service_fn(move |_: hyper::Request<hyper::body::Incoming>| {
                let answer = answer.clone();
                async move { Ok::<_, Infallible>(hyper::Response::new(Full::new(answer))) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .serve_connection(TokioIo::new(stream), service);
            // Whatever ends it, the client notices.
            let _ = connection.await;
        });
    }
}

/// The LAN's resolver: what it does not know does not exist, for there is nobody else to ask.
struct Resolver {
    names: Vec<(String, Ipv4Addr)>,
}

impl Resolver {
    async fn serve_udp(self: Arc<Self>, socket: UdpSocket) {
        let mut question = vec![0; usize::from(u16::MAX)];
        loop {
            // An error is about an earlier answer, which met a closed port.
            let Ok((length, client)) = socket.recv_from(&mut question).await else { continue };
            if let Some(answer) = self.answer(&question[..length]) {
                let _ = socket.send_to(&answer, client).await;
            }
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let mut clients = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = clients.join_next() => continue,
            };
            let Ok((stream, _)) = accepted else { continue };
            let this = Arc::clone(&self);
            clients.spawn(async move {
                // Whatever ends a conversation, the client notices.
                let _ = this.converse(stream).await;
            });
        }
    }

    async fn converse(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let length = timeout(IDLE, stream.read_u16()).await??;
            let mut question = vec![0; usize::from(length)];
            timeout(IDLE, stream.read_exact(&mut question)).await??;
            let Some(answer) = self.answer(&question) else { return Ok(()) };
            let length = u16::try_from(answer.len()).unwrap_or_default();
            let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
            timeout(IDLE, stream.write_all(&framed)).await??;
        }
    }

    /// None for what is no question.
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).ok()?;
        if question.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata = Metadata::response_from_request(&question.metadata);
        answer.metadata.recursion_available = true;
        answer.add_queries(question.queries.iter().cloned());
        answer.metadata.response_code = match question.queries.as_slice() {
            _ if question.metadata.op_code != OpCode::Query => ResponseCode::NotImp,
            [query] if query.query_class == DNSClass::IN => match self.address(&query.name) {
                Some(ip) => {
                    if matches!(query.query_type, RecordType::A | RecordType::ANY) {
                        answer.add_answer(Record::from_rdata(query.name.clone(), TTL, RData::A(A(ip))));
                    }
                    ResponseCode::NoError
                }
                None => ResponseCode::NXDomain,
            },
            [_] => ResponseCode::Refused,
            _ => ResponseCode::FormErr,
        };
        answer.to_vec().ok()
    }

    fn address(&self, name: &Name) -> Option<Ipv4Addr> {
        let name = name.to_ascii().to_lowercase();
        let name = name.trim_end_matches('.');
        self.names.iter().find(|(known, _)| known == name).map(|(_, ip)| *ip)
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;

    use super::*;
    use crate::topology::OUTSIDE_HOSTS;

    fn resolver() -> Resolver {
        Resolver {
            names: vec![("www.baidu.com".to_owned(), OUTSIDE_NAMED), ("kube0.vm".to_owned(), GATEWAY)],
        }
    }

    fn ask(name: &str, kind: RecordType) -> (ResponseCode, Vec<RData>) {
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let answer = resolver().answer(&question.to_vec().unwrap()).unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!((answer.metadata.id, answer.metadata.message_type), (7, MessageType::Response));
        (answer.metadata.response_code, answer.answers.into_iter().map(|record| record.data).collect())
    }

    #[test]
    fn it_knows_a_few_names_and_says_that_there_are_no_others() {
        let known = vec![RData::A(A(OUTSIDE_NAMED))];
        assert_eq!(ask("www.baidu.com.", RecordType::A), (ResponseCode::NoError, known.clone()));
        assert_eq!(ask("WWW.Baidu.com.", RecordType::A), (ResponseCode::NoError, known));
        assert_eq!(ask("www.baidu.com.", RecordType::AAAA), (ResponseCode::NoError, Vec::new()));
        assert_eq!(ask("kube0.vm.", RecordType::A).1.len(), 1);
        assert_eq!(ask("www.example.com.", RecordType::A), (ResponseCode::NXDomain, Vec::new()));
    }

    #[test]
    fn noise_gets_no_answer() {
        assert_eq!(resolver().answer(b"?"), None);
        let response = Message::response(1, OpCode::Query).to_vec().unwrap();
        assert_eq!(resolver().answer(&response), None, "two resolvers would talk for ever");
    }

    #[test]
    fn hosts_have_their_address_for_a_name() {
        assert_eq!(host_name(OUTSIDE_HOSTS[0].into()), "11.11.11.11");
        assert_eq!(host_name(OUTSIDE_NAMED.into()), "www.baidu.com");
    }
}

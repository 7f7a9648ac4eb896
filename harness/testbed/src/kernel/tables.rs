//! The packet rules of a service proxy, as nftables sets: rules and chains are shared by all
//! services and written once, a service is nothing but elements of sets. Afterwards only elements
//! change, because a new connection that meets a replaced chain can stay untranslated for good.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::Context as _;
use ipnet::Ipv4Net;
use nlink::Connection;
use nlink::netlink::Nftables;
use nlink::netlink::nftables::{
    BaseChain, Chain, ChainName, CtState, CtStatus, DynsetExpr, DynsetOp, Expr, Family, FibFlags, FilterHook,
    LookupExpr, MetaKey, NatHook, NatStatement, NumgenKind, PacketField, PayloadBase, Priority, RawExpr,
    Register, Rule, Set, SetDataType, SetElement, SetKeyType, Transaction, Verdict,
};
use nlink::netlink::types::route::RouteType;

use super::connect;
use crate::namespace::NetNamespace;

const TABLE: &str = "service-proxy";
/// The mark of packets whose source is to be rewritten, kube-proxy's own.
const MASQUERADE: u32 = 0x4000;
/// After connection tracking, and while the address is still the one the caller meant.
const BEFORE_TRANSLATION: Priority = Priority::Custom(-110);
const LOOPBACK: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 0, 0, 0), 8);
/// Port unreachable (RFC 792): a refused connection.
const PORT_UNREACHABLE: u8 = 3;
/// A message's element list must stay below 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 400;
/// More than any element needs on the wire, its removal included.
const BYTES_PER_ELEMENT: usize = 256;
/// More than the rules that come before the elements need.
const BYTES_OF_RULES: usize = 64 << 10;

/// The sets, in the order in which their elements must come into being: what says *where to* before
/// what sends packets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Map {
    /// address . protocol . port . index -> endpoint address . port; see [`Rows`] for the address.
    Endpoints,
    /// endpoint . endpoint: those calls to itself need a rewritten source to come back.
    Hairpin,
    /// address . protocol . port . endpoint, of services with affinity: who may be returned to.
    Serving,
    /// client . address . protocol . port -> endpoint. Rules write it, nobody else.
    Affinity,
    /// network . prefix . address . protocol . port: who may call a firewalled address.
    Admitted,
    /// address . protocol . port that only [`Map::Admitted`] may call.
    Firewalled,
    /// Every address whose unserved ports are refused.
    ClusterIps,
    /// address . protocol . port whose packets vanish: served, but not from this node.
    Dropped,
    /// address . protocol . port without endpoints.
    Refused,
    /// protocol . port whose packets vanish.
    NodePortsDropped,
    /// protocol . port without endpoints.
    NodePortsRefused,
    /// address . protocol . port -> balance
    Services,
    /// address . protocol . port -> balance, for callers from outside the cluster.
    ExternalOutside,
    /// address . protocol . port -> balance, for pods and for the node itself.
    ExternalInside,
    /// protocol . port -> balance, for callers from outside the cluster.
    NodePortsOutside,
    /// protocol . port -> balance, for pods and for the node itself.
    NodePortsInside,
}

impl Map {
    const ALL: [Self; 16] = [
        Self::Endpoints,
        Self::Hairpin,
        Self::Serving,
        Self::Affinity,
        Self::Admitted,
        Self::Firewalled,
        Self::ClusterIps,
        Self::Dropped,
        Self::Refused,
        Self::NodePortsDropped,
        Self::NodePortsRefused,
        Self::Services,
        Self::ExternalOutside,
        Self::ExternalInside,
        Self::NodePortsOutside,
        Self::NodePortsInside,
    ];

    /// Do its elements send packets somewhere?
    fn decides(self) -> bool {
        !matches!(self, Self::Endpoints | Self::Hairpin | Self::Serving | Self::Affinity | Self::Admitted)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::Hairpin => "hairpin",
            Self::Serving => "serving",
            Self::Affinity => "affinity",
            Self::Admitted => "admitted",
            Self::Firewalled => "firewalled",
            Self::ClusterIps => "cluster-ips",
            Self::Dropped => "dropped",
            Self::Refused => "refused",
            Self::NodePortsDropped => "node-ports-dropped",
            Self::NodePortsRefused => "node-ports-refused",
            Self::Services => "services",
            Self::ExternalOutside => "external-outside",
            Self::ExternalInside => "external-inside",
            Self::NodePortsOutside => "node-ports-outside",
            Self::NodePortsInside => "node-ports-inside",
        }
    }

    fn set(self) -> Set {
        use SetKeyType::{InetProto, InetService, Ipv4Addr, Mark};
        let set = Set::new(TABLE, self.name()).family(Family::Ip);
        match self {
            Self::Endpoints => set
                .key_type(SetKeyType::Concat(vec![Ipv4Addr, InetProto, InetService, Mark]))
                .map(SetDataType::Value(SetKeyType::Concat(vec![Ipv4Addr, InetService]))),
            Self::Hairpin => set.key_type(SetKeyType::Concat(vec![Ipv4Addr, Ipv4Addr])),
            Self::Serving => set.key_type(SetKeyType::Concat(vec![
                Ipv4Addr,
                InetProto,
                InetService,
                Ipv4Addr,
                InetService,
            ])),
            Self::Affinity => set
                .key_type(SetKeyType::Concat(vec![Ipv4Addr, Ipv4Addr, InetProto, InetService]))
                .map(SetDataType::Value(SetKeyType::Concat(vec![Ipv4Addr, InetService])))
                .dynamic()
                .per_element_timeouts(),
            Self::Admitted => {
                set.key_type(SetKeyType::Concat(vec![Ipv4Addr, Mark, Ipv4Addr, InetProto, InetService]))
            }
            Self::ClusterIps => set.key_type(Ipv4Addr),
            Self::Firewalled | Self::Dropped | Self::Refused => {
                set.key_type(SetKeyType::Concat(vec![Ipv4Addr, InetProto, InetService]))
            }
            Self::NodePortsDropped | Self::NodePortsRefused => {
                set.key_type(SetKeyType::Concat(vec![InetProto, InetService]))
            }
            Self::Services | Self::ExternalOutside | Self::ExternalInside => {
                set.key_type(SetKeyType::Concat(vec![Ipv4Addr, InetProto, InetService])).vmap()
            }
            Self::NodePortsOutside | Self::NodePortsInside => {
                set.key_type(SetKeyType::Concat(vec![InetProto, InetService])).vmap()
            }
        }
    }
}

/// A part of an element's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Field {
    Address(Ipv4Addr),
    Protocol(u8),
    Port(u16),
    Index(u32),
}

/// What a key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    /// The key is all there is.
    Member,
    Endpoint(Ipv4Addr, u16),
    Balance(Balance),
}

/// A chain that spreads new connections evenly over a number of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Balance {
    pub(crate) rows: Rows,
    pub(crate) masquerade: Masquerade,
    pub(crate) endpoints: u32,
    /// For so many seconds after its last call a client returns to its endpoint.
    pub(crate) affinity: Option<u32>,
}

/// Under which address a chain looks its endpoints up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rows {
    /// The one the packet was sent to.
    Destination,
    /// A fixed one, because a node port has no address of its own.
    Fixed(Ipv4Addr),
    /// The one the packet was sent to, with a protocol number that is [`Rows::local_protocol`]: the
    /// endpoints of this node only.
    LocalOfDestination(u8),
}

impl Rows {
    /// A number that no protocol has (IANA, "Assigned Internet Protocol Numbers"), so that the local
    /// endpoints of an address can be kept beside all of them.
    pub(crate) fn local_protocol(protocol: u8) -> u8 {
        protocol | 0x80
    }
}

/// Whose source address is replaced by the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Masquerade {
    Everybody,
    NotPods,
    Nobody,
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rows {
            Rows::Destination => write!(f, "address-")?,
            Rows::Fixed(row) => write!(f, "node-port-{}-", row.octets()[3])?,
            Rows::LocalOfDestination(protocol) => write!(f, "local-{protocol}-")?,
        }
        let masquerade = match self.masquerade {
            Masquerade::Everybody => "masquerade-all",
            Masquerade::NotPods => "masquerade-others",
            Masquerade::Nobody => "keep-source",
        };
        write!(f, "{masquerade}-{}", self.endpoints)?;
        self.affinity.map_or(Ok(()), |seconds| write!(f, "-affinity-{seconds}"))
    }
}

/// An element's set and key.
pub(crate) type Element = (Map, Vec<Field>);

/// One element before and after; at least one of the two exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) element: Element,
    pub(crate) before: Option<Value>,
    pub(crate) after: Option<Value>,
}

/// The proxy's rules in one namespace.
pub(crate) struct Tables {
    connection: Connection<Nftables>,
    pods: Ipv4Net,
    chains: BTreeSet<Balance>,
    /// How many elements one transaction can hold: it is sent in one piece.
    room: usize,
}

impl Tables {
    /// Touches nothing yet. Callers from `pods` keep their source address.
    pub(crate) fn open(namespace: &NetNamespace, pods: Ipv4Net) -> anyhow::Result<Self> {
        let connection: Connection<Nftables> = connect(namespace)?;
        let room = (send_buffer(connection.socket().as_raw_fd()).saturating_sub(BYTES_OF_RULES)
            / BYTES_PER_ELEMENT)
            .max(1);
        Ok(Self { connection, pods, chains: BTreeSet::new(), room })
    }

    /// Did somebody, such as an earlier proxy, write rules here already?
    pub(crate) async fn exist(&self) -> anyhow::Result<bool> {
        let tables = self.connection.list_tables_in(Family::Ip).await.context("list the nftables tables")?;
        Ok(tables.iter().any(|table| table.name == TABLE))
    }

    /// Writes sets and rules anew, without any element.
    pub(crate) async fn reset(&mut self) -> anyhow::Result<()> {
        self.chains.clear();
        self.connection
            .del_table_if_exists(TABLE, Family::Ip)
            .await
            .with_context(|| format!("remove the nftables table `{TABLE}`"))?;
        let mut transaction = self.connection.transaction().add_table(TABLE, Family::Ip);
        for map in Map::ALL {
            transaction = transaction.add_set(map.set());
        }
        transaction = base_rules(transaction, self.pods)?;
        transaction
            .commit(&self.connection)
            .await
            .with_context(|| format!("write the nftables table `{TABLE}`"))
    }

    /// Changes elements: in one transaction if it fits, else so that no packet is ever sent to
    /// where nothing is yet, or nothing is any more.
    pub(crate) async fn change(&mut self, changes: &[Change]) -> anyhow::Result<()> {
        let mut ordered: Vec<&Change> = changes.iter().collect();
        ordered.sort_by_key(|change| {
            let (map, key) = &change.element;
            let step = match (map.decides(), &change.after) {
                (false, Some(_)) => 0,
                (true, _) => 1,
                (false, None) => 2,
            };
            (step, *map, key)
        });
        for part in ordered.chunks(self.room) {
            self.commit(part).await?;
        }
        Ok(())
    }

    async fn commit(&mut self, changes: &[&Change]) -> anyhow::Result<()> {
        let named = changes.iter().filter_map(|change| match change.after {
            Some(Value::Balance(balance)) => Some(balance),
            _ => None,
        });
        let missing: BTreeSet<Balance> = named.filter(|balance| !self.chains.contains(balance)).collect();
        if !missing.is_empty() {
            // Beforehand: a packet that started before the commit would find a new chain empty.
            let mut chains = self.connection.transaction();
            for balance in &missing {
                chains = balance_rules(chains, balance, self.pods)?;
            }
            let added = chains.commit(&self.connection).await;
            added.with_context(|| format!("add chains to the nftables table `{TABLE}`"))?;
            self.chains.extend(missing);
        }
        let mut transaction = self.connection.transaction();
        for same_map in changes.chunk_by(|a, b| a.element.0 == b.element.0) {
            for some in same_map.chunks(ELEMENTS_PER_MESSAGE) {
                transaction = element_messages(transaction, some)?;
            }
        }
        let count = changes.len();
        transaction
            .commit(&self.connection)
            .await
            .with_context(|| format!("change {count} elements of the nftables table `{TABLE}`"))
    }
}

/// Removals come first, so that a changed element is replaced and not refused.
fn element_messages(mut transaction: Transaction, changes: &[&Change]) -> anyhow::Result<Transaction> {
    let Some(first) = changes.first() else { return Ok(transaction) };
    let set = first.element.0.set();
    let mut gone = Vec::new();
    let mut come = Vec::new();
    for change in changes {
        let key = || SetElement::concat(change.element.1.iter().map(field));
        if change.before.is_some() {
            gone.push(key());
        }
        come.extend(change.after.as_ref().map(|value| with_value(key(), value)).transpose()?);
    }
    if !gone.is_empty() {
        transaction = transaction.del_set_elements(&set, &gone);
    }
    if !come.is_empty() {
        transaction = transaction.add_set_elements(&set, &come);
    }
    Ok(transaction)
}

fn field(field: &Field) -> SetElement {
    match *field {
        Field::Address(ip) => SetElement::ipv4(ip),
        Field::Protocol(number) => SetElement::inet_proto(number),
        Field::Port(port) => SetElement::port(port),
        Field::Index(index) => SetElement::mark(index),
    }
}

fn with_value(key: SetElement, value: &Value) -> anyhow::Result<SetElement> {
    Ok(match value {
        Value::Member => key,
        Value::Endpoint(ip, port) => {
            key.value(SetElement::concat([SetElement::ipv4(*ip), SetElement::port(*port)]))
        }
        Value::Balance(balance) => key.verdict(Verdict::GotoTo(ChainName::new(balance.to_string())?)),
    })
}

/// The rules every packet meets. As in kube-proxy, translation happens before routing (or on the way
/// out of a local process), and what was left untranslated is refused in the filter hooks.
fn base_rules(mut transaction: Transaction, pods: Ipv4Net) -> anyhow::Result<Transaction> {
    let chain = |name: &str| anyhow::Ok(Chain::new(TABLE, name)?.family(Family::Ip));
    for name in ["admit", "translate", "refuse", "mark-for-masquerade"] {
        transaction = transaction.add_chain(chain(name)?);
    }
    for (name, base) in [
        ("nat-prerouting", BaseChain::nat(NatHook::Prerouting, Priority::DstNat)),
        ("nat-output", BaseChain::nat(NatHook::Output, Priority::DstNat)),
        ("nat-postrouting", BaseChain::nat(NatHook::Postrouting, Priority::SrcNat)),
        ("filter-prerouting", BaseChain::filter(FilterHook::Prerouting, BEFORE_TRANSLATION)),
        ("filter-output-early", BaseChain::filter(FilterHook::Output, BEFORE_TRANSLATION)),
        ("filter-input", BaseChain::filter(FilterHook::Input, Priority::Filter)),
        ("filter-forward", BaseChain::filter(FilterHook::Forward, Priority::Filter)),
        ("filter-output", BaseChain::filter(FilterHook::Output, Priority::Filter)),
    ] {
        transaction = transaction.add_chain(chain(name)?.base(base));
    }

    let refuse = |rule: Rule| rule.reject_icmp(PORT_UNREACHABLE);
    // Each lookup twice: a packet on its way while an element is replaced may find neither the old
    // one nor the new one, and a connection whose first packet goes untranslated is lost for good.
    let pod_to_node = || to_node(rule("translate")).match_saddr_v4(pods.network(), pods.prefix_len());
    let self_to_node = || to_node(rule("translate")).match_fib_type(FibFlags::SADDR, RouteType::Local);
    let to_firewalled = |chain| {
        contained(by_address(rule(chain).match_ct_state(CtState::NEW), Rows::Destination), Map::Firewalled)
    };
    let from_pod = || rule("translate").match_saddr_v4(pods.network(), pods.prefix_len());
    let from_self = || rule("translate").match_fib_type(FibFlags::SADDR, RouteType::Local);
    let external = |rule: Rule, map| decide(by_address(rule, Rows::Destination), map);
    for prefix in 0..=Ipv4Addr::BITS {
        transaction = transaction.add_rule(admitted(prefix));
    }
    let rules = [
        rule("admit").drop(),
        to_firewalled("filter-prerouting").try_jump("admit")?,
        to_firewalled("filter-output-early").try_jump("admit")?,
        rule("nat-prerouting").try_jump("translate")?,
        rule("nat-output").try_jump("translate")?,
        decide(by_address(rule("translate"), Rows::Destination), Map::Services),
        decide(by_address(rule("translate"), Rows::Destination), Map::Services),
        external(from_pod(), Map::ExternalInside),
        external(from_pod(), Map::ExternalInside),
        external(from_self(), Map::ExternalInside),
        external(from_self(), Map::ExternalInside),
        external(rule("translate"), Map::ExternalOutside),
        external(rule("translate"), Map::ExternalOutside),
        decide(by_port(pod_to_node()), Map::NodePortsInside),
        decide(by_port(pod_to_node()), Map::NodePortsInside),
        decide(by_port(self_to_node()), Map::NodePortsInside),
        decide(by_port(self_to_node()), Map::NodePortsInside),
        decide(by_port(to_node(rule("translate"))), Map::NodePortsOutside),
        decide(by_port(to_node(rule("translate"))), Map::NodePortsOutside),
        rule("mark-for-masquerade").set_mark_masked(MASQUERADE, MASQUERADE),
        masquerade(
            rule("nat-postrouting")
                .match_ct_status(CtStatus::DST_NAT)
                .match_concat_in_set(&[PacketField::Ip4Saddr, PacketField::Ip4Daddr], Map::Hairpin.name()),
        ),
        masquerade(
            rule("nat-postrouting").match_mark_masked(MASQUERADE, MASQUERADE).set_mark_masked(0, MASQUERADE),
        ),
        // A reply conntrack cannot place would leave untranslated and make the client reset.
        rule("filter-forward").match_ct_state(CtState::INVALID).drop(),
        rule("filter-input").match_ct_state(CtState::NEW).try_jump("refuse")?,
        rule("filter-forward").match_ct_state(CtState::NEW).try_jump("refuse")?,
        rule("filter-output").match_ct_state(CtState::NEW).try_jump("refuse")?,
        contained(by_address(rule("refuse"), Rows::Destination), Map::Dropped).drop(),
        refuse(contained(by_address(rule("refuse"), Rows::Destination), Map::Refused)),
        refuse(rule("refuse").match_daddr_in_set(Map::ClusterIps.name())),
        contained(by_port(to_node(rule("refuse"))), Map::NodePortsDropped).drop(),
        refuse(contained(by_port(to_node(rule("refuse"))), Map::NodePortsRefused)),
    ];
    Ok(rules.into_iter().fold(transaction, Transaction::add_rule))
}

/// A chain that gives a new connection one of so many endpoints.
fn balance_rules(
    mut transaction: Transaction,
    balance: &Balance,
    pods: Ipv4Net,
) -> anyhow::Result<Transaction> {
    let name = balance.to_string();
    transaction = transaction.add_chain(Chain::new(TABLE, name.as_str())?.family(Family::Ip));
    let marked = match balance.masquerade {
        Masquerade::Everybody => Some(rule(&name)),
        Masquerade::NotPods => Some(rule(&name).match_saddr_v4_not(pods.network(), pods.prefix_len())),
        Masquerade::Nobody => None,
    };
    if let Some(marked) = marked {
        transaction = transaction.add_rule(marked.try_jump("mark-for-masquerade")?);
    }
    let index = [
        Expr::Numgen {
            dreg: Register::Reg32_03,
            kind: NumgenKind::Random,
            modulus: balance.endpoints,
            offset: 0,
        },
        // Reached only by a packet that was on its way while the number of endpoints shrank: the
        // first endpoint always exists.
        Expr::Immediate { dreg: Register::Reg32_03, data: vec![0; 4] },
    ];
    if let Some(seconds) = balance.affinity {
        transaction = transaction.add_rule(return_to_endpoint(rule(&name), balance.rows, seconds));
        // The old endpoint left: an update would not replace it. Forgetting takes a value as well,
        // whichever.
        let any = Expr::Immediate { dreg: Register::R2, data: vec![0; 8] };
        let forget = dynset(DynsetOp::Delete, seconds);
        transaction = transaction.add_rule(by_client(rule(&name), balance.rows).expr(any).expr(forget));
    }
    for index in index {
        let mut drawn = by_address(rule(&name), balance.rows)
            .expr(index)
            .expr(LookupExpr::new(Map::Endpoints.name(), Register::R0).dreg(Register::R2));
        if let Some(seconds) = balance.affinity {
            drawn = by_client(drawn, balance.rows).expr(dynset(DynsetOp::Update, seconds));
        }
        transaction = transaction.add_rule(drawn.expr(translate_to_looked_up()));
    }
    Ok(transaction)
}

/// A client that was here before gets its endpoint again, if that still serves.
fn return_to_endpoint(rule: Rule, rows: Rows, seconds: u32) -> Rule {
    by_client(rule, rows)
        .expr(LookupExpr::new(Map::Affinity.name(), Register::R0).dreg(Register::R2))
        // The endpoint stands in words 8 and 9; what it must serve goes right before it.
        .expr(row(rows, Register::Reg32_05))
        .expr(row_protocol(rows, Register::Reg32_06))
        .expr(destination_port(Register::Reg32_07))
        .expr(LookupExpr::new(Map::Serving.name(), Register::Reg32_05))
        .expr(dynset(DynsetOp::Update, seconds))
        .expr(translate_to_looked_up())
}

/// Remembers, or forgets, that the client belongs to the endpoint in the third register.
fn dynset(op: DynsetOp, seconds: u32) -> Expr {
    DynsetExpr::new(op, Map::Affinity.name(), Register::R0)
        .sreg_data(Register::R2)
        .timeout(Duration::from_secs(seconds.into()))
        .into()
}

/// Loads client . address . protocol . destination port.
fn by_client(rule: Rule, rows: Rows) -> Rule {
    rule.expr(Expr::Payload { dreg: Register::Reg32_00, base: PayloadBase::Network, offset: 12, len: 4 })
        .expr(row(rows, Register::Reg32_01))
        .expr(row_protocol(rows, Register::Reg32_02))
        .expr(destination_port(Register::Reg32_03))
}

fn rule(chain: &str) -> Rule {
    Rule::new(TABLE, chain).family(Family::Ip)
}

/// A caller from a network of this size that is admitted goes on.
fn admitted(prefix: u32) -> Rule {
    let mask = u32::MAX.checked_shl(Ipv4Addr::BITS - prefix).unwrap_or(0).to_be_bytes().to_vec();
    let caller = Register::Reg32_00;
    rule("admit")
        .expr(Expr::Payload { dreg: caller, base: PayloadBase::Network, offset: 12, len: 4 })
        .expr(Expr::Bitwise { sreg: caller, dreg: caller, len: 4, mask, xor: vec![0; 4] })
        .expr(Expr::Immediate { dreg: Register::Reg32_01, data: prefix.to_ne_bytes().to_vec() })
        .expr(row(Rows::Destination, Register::Reg32_02))
        .expr(protocol(Register::Reg32_03))
        .expr(destination_port(Register::Reg32_04))
        .expr(LookupExpr::new(Map::Admitted.name(), Register::R0))
        .accept()
}

/// Any address of this node, but loopback.
pub(super) fn to_node(rule: Rule) -> Rule {
    let (loopback, prefix) = LOOPBACK;
    rule.match_daddr_v4_not(loopback, prefix).match_fib_type(FibFlags::DADDR, RouteType::Local)
}

/// Loads the address endpoints are kept under.
fn row(rows: Rows, dreg: Register) -> Expr {
    match rows {
        Rows::Destination | Rows::LocalOfDestination(_) => {
            Expr::Payload { dreg, base: PayloadBase::Network, offset: 16, len: 4 }
        }
        Rows::Fixed(row) => Expr::Immediate { dreg, data: row.octets().to_vec() },
    }
}

/// Loads the protocol endpoints are kept under.
fn row_protocol(rows: Rows, dreg: Register) -> Expr {
    match rows {
        Rows::LocalOfDestination(kept_under) => Expr::Immediate { dreg, data: vec![kept_under, 0, 0, 0] },
        Rows::Destination | Rows::Fixed(_) => protocol(dreg),
    }
}

/// Loads address . protocol . destination port.
pub(super) fn by_address(rule: Rule, rows: Rows) -> Rule {
    rule.expr(row(rows, Register::Reg32_00))
        .expr(row_protocol(rows, Register::Reg32_01))
        .expr(destination_port(Register::Reg32_02))
}

/// Loads protocol . destination port.
pub(super) fn by_port(rule: Rule) -> Rule {
    rule.expr(protocol(Register::Reg32_00)).expr(destination_port(Register::Reg32_01))
}

fn protocol(dreg: Register) -> Expr {
    Expr::Meta { dreg, key: MetaKey::L4Proto }
}

fn destination_port(dreg: Register) -> Expr {
    Expr::Payload { dreg, base: PayloadBase::Transport, offset: 2, len: 2 }
}

fn contained(rule: Rule, map: Map) -> Rule {
    rule.expr(LookupExpr::new(map.name(), Register::R0))
}

fn decide(rule: Rule, map: Map) -> Rule {
    rule.expr(LookupExpr::new(map.name(), Register::R0).dreg(Register::Verdict))
}

fn masquerade(rule: Rule) -> Rule {
    rule.nat(NatStatement::masquerade().fully_random())
}

/// `dnat ip to` the address and port that a lookup left in the third register; the library has no
/// way to say this.
pub(super) fn translate_to_looked_up() -> Expr {
    const TYPE: (u16, u32) = (1, 1);
    const FAMILY: (u16, u32) = (2, 2);
    const ADDRESS: (u16, u32) = (3, Register::R2 as u32);
    const PORT: (u16, u32) = (5, Register::Reg32_09 as u32);
    let attributes = [TYPE, FAMILY, ADDRESS, PORT];
    let bytes = attributes.into_iter().flat_map(|(kind, value)| {
        let mut attribute = [0; 8];
        attribute[..2].copy_from_slice(&8_u16.to_ne_bytes());
        attribute[2..4].copy_from_slice(&kind.to_ne_bytes());
        attribute[4..].copy_from_slice(&value.to_be_bytes());
        attribute
    });
    RawExpr::new("nat", bytes.collect()).into()
}

/// Makes the socket's send buffer as large as it may be, and says how large it is.
#[expect(unsafe_code, reason = "setsockopt and getsockopt have no safe wrapper in std")]
fn send_buffer(socket: std::os::fd::RawFd) -> usize {
    let wished: libc::c_int = 64 << 20;
    const SIZE: libc::socklen_t = size_of::<libc::c_int>() as libc::socklen_t;
    // Only root may exceed the limit; others get what is allowed.
    for option in [libc::SO_SNDBUF, libc::SO_SNDBUFFORCE] {
        // SAFETY: the value is an int that outlives the call. A refusal leaves the buffer as it is.
        unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, option, (&raw const wished).cast(), SIZE) };
    }
    let mut bytes: libc::c_int = 0;
    let mut size = SIZE;
    // SAFETY: both pointers are to locals of the sizes the kernel is told.
    let read = unsafe {
        libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, (&raw mut bytes).cast(), &raw mut size)
    };
    match read {
        0 => usize::try_from(bytes).unwrap_or_default(),
        _ => 0,
    }
}

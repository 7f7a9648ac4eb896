//! What a router tells those who send to where it has no way.

use nlink::Connection;
use nlink::netlink::Nftables;
use nlink::netlink::nftables::{BaseChain, Chain, Family, FibFlags, FilterHook, Priority, Rule};
use nlink::netlink::types::route::RouteType;

use super::connect;
use crate::namespace::NetNamespace;

const TABLE: &str = "no-way";
const CHAIN: &str = "filter-prerouting";
/// Host unreachable (RFC 792).
const HOST_UNREACHABLE: u8 = 1;

/// Answers everything that is to be passed on and has no route with "host unreachable".
///
/// Routes of the type `unreachable` do so too, but to one host only a few times and then once a second
/// (`net.ipv4.route.error_burst` and `error_cost`, which belong to the whole machine), so that of calls that
/// are made at once most are told nothing.
pub(crate) async fn tell_unreachable(namespace: &NetNamespace) {
    let rule = || Rule::new(TABLE, CHAIN).family(Family::Ip);
    let own = |kind| rule().match_fib_type(FibFlags::DADDR, kind).accept();
    let missing = rule().match_fib_missing(FibFlags::DADDR).reject_icmp(HOST_UNREACHABLE);
    let write = async {
        let connection: Connection<Nftables> = connect(namespace)?;
        // After addresses are translated, of which the last word is where the packet goes.
        let base = BaseChain::filter(FilterHook::Prerouting, Priority::Filter);
        connection
            .transaction()
            .add_table(TABLE, Family::Ip)
            .add_chain(Chain::new(TABLE, CHAIN)?.family(Family::Ip).base(base))
            // For these there is a way, though none to another machine.
            .add_rule(own(RouteType::Local))
            .add_rule(own(RouteType::Broadcast))
            .add_rule(own(RouteType::Multicast))
            .add_rule(missing)
            .commit(&connection)
            .await?;
        anyhow::Ok(())
    };
    // Kernels before 5.9 do not reject so early; with them it stays at what the routes say.
    let _ = write.await;
}

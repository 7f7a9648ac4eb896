//! Which pod has which address of its node's range.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use ipnet::Ipv4Net;

/// The addresses of one node's pods. `.1` is the node's own side.
#[derive(Debug)]
pub(crate) struct Addresses {
    range: Ipv4Net,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u32,
    used: BTreeSet<u32>,
}

impl Addresses {
    pub(crate) fn new(range: Ipv4Net) -> Self {
        let next = u32::from(range.network()).saturating_add(2);
        Self { range, state: Mutex::new(State { next, used: BTreeSet::new() }) }
    }

    /// The next free address, round and round: one that was just released rests as long as possible, so
    /// that a late packet to the old pod does not reach the new one.
    pub(crate) fn allocate(&self) -> anyhow::Result<Ipv4Addr> {
        let first = u32::from(self.range.network()).saturating_add(2);
        let last = u32::from(self.range.broadcast()).saturating_sub(1);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let start = state.next;
        let free = (start..=last).chain(first..start).find(|address| !state.used.contains(address));
        let Some(free) = free.filter(|address| (first..=last).contains(address)) else {
            anyhow::bail!("no free address for a pod in {}", self.range);
        };
        state.used.insert(free);
        state.next = if free >= last { first } else { free + 1 };
        Ok(free.into())
    }

    pub(crate) fn release(&self, address: Ipv4Addr) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).used.remove(&address.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_round_and_are_never_shared() {
        let addresses = Addresses::new("10.244.3.0/29".parse().expect("a range"));
        let last = |address: anyhow::Result<Ipv4Addr>| address.map(|a| a.octets()[3]).ok();
        for expected in [2, 3, 4] {
            assert_eq!(last(addresses.allocate()), Some(expected));
        }
        addresses.release(Ipv4Addr::new(10, 244, 3, 3));
        let rest: Vec<_> = (0..4).map(|_| last(addresses.allocate())).collect();
        assert_eq!(rest, [Some(5), Some(6), Some(3), None], ".7 is the broadcast address");
    }
}
